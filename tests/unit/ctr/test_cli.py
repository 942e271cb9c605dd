import pytest

from ctr import cli


@pytest.mark.parametrize("noun", cli.NOUNS, ids=lambda noun: noun.name)
def test_every_noun_has_its_module_and_help(noun, capsys):
    for name in (noun.name, *noun.aliases):
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        assert f"usage: ctr {noun.name}" in capsys.readouterr().out


def test_nouns_are_unique():
    names = [name for noun in cli.NOUNS for name in (noun.name, *noun.aliases)]
    assert len(names) == len(set(names))


def test_the_environment_names_the_daemon_and_the_namespace(monkeypatch):
    monkeypatch.setenv("HOLDD_ADDRESS", "/some/socket")
    monkeypatch.setenv("HOLDD_NAMESPACE", "mine")
    args = cli.parser().parse_args(["tasks", "ls"])
    assert (args.address, args.namespace, args.rest) == ("/some/socket", "mine", ["ls"])


def test_options_of_a_noun_are_not_ours():
    args = cli.parser().parse_args(["run", "-d", "--namespace", "x", "--", "y"])
    assert (args.command, args.namespace) == ("run", "default")
    assert args.rest == ["-d", "--namespace", "x", "--", "y"]


def test_an_unknown_command_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["nonsense"])
    assert ended.value.code == 2
    assert "unknown command 'nonsense'" in capsys.readouterr().err


def test_no_command_shows_help(capsys):
    assert cli.main([]) == 2
    assert "containers, container, c" in capsys.readouterr().out
