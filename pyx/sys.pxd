# The only externs of libc and kernel headers. One block a header; constants beside the calls that take them.
#
# Append to the block of the header that declares a symbol; a constant that an old header may lack gets a verbatim
# #ifndef in the include block at the top.
