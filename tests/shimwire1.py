"""Version 1 of the shim's protocol, byte for byte. Containers that were started by holdd 0.1 speak it: nothing here may
change, and a shim or a daemon that does not send this any more does not speak version 1.

`REQUESTS` are what a daemon sends, their ids left out (4 bytes at offset 4), with the number of descriptors that ride
along; `ANSWERS` what the shim answers to those that a test can have carried out anywhere.
"""

REQUESTS = {
    "run": ("01020000" "{id}" "002f685900000000" "07000000" "0200" "0100" "0100" "0100" "00000000" "01000000" "02000000"
            "2f00" "2f62696e2f6563686f00" "6800" "4b3d7600" "6f757400", 1),
    "kill": ("01030000" "00000000" "{id}" "09000000", 0),
    "keep": ("01040000" "{id}" "6f757400", 1),
    "fetch": ("01050000" "{id}" "6f757400", 0),
    "drop": ("01060000" "{id}" "6f757400", 0),
    "attach": ("01070000" "{id}" "2f7400", 1),
    "mount": ("01080000" "{id}" "0300000000000000" "746d70667300" "7300" "2f7400" "6400", 0),
    "console": ("01090000" "{id}" "2f632e736f636b00" "70747900", 0),
    "resize": ("010a0000" "{id}" "5000" "1800" "00000000" "70747900", 0),
    "watch oom": ("010b0000" "{id}" "2f6300", 0),
    "shutdown": ("010c0000" "{id}", 0),
    "follow": ("010d0000" "00000000" "0500000000000000", 0),
}  # fmt: skip

ANSWERS = {
    "run": "01020000" "{id}" "00000000" "00000000" "00000000",
    "keep": "01040000" "{id}" "00000000",
    "fetch": "01050000" "{id}" "00000000",
    "drop": "01060000" "{id}" "00000000",
    "no such name": "01060000" "{id}" "02000000",
    "no such operation": "01630000" "{id}" "26000000",
    "no such version": "01060000" "{id}" "5d000000",
    "hello": "010e0000" "00000000" "26000000",
    "shutdown": "010c0000" "{id}" "00000000",
}  # fmt: skip

EXIT = "01010000" "00000000" "00000000" "{sequence}" "{time}" "{pid}" "07000000" "00000000" "00000000"  # fmt: skip


def packed(text: str, id: int = 0, **more: bytes) -> bytes:
    fields = {"id": id.to_bytes(4, "little")} | more
    return bytes.fromhex(text.format_map({name: value.hex() for name, value in fields.items()}))
