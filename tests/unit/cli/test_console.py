"""What the command prints, of a service that is not asked in earnest: none runs."""

from typer.testing import CliRunner

from microvmd.cli.main import app


def test_help_names_what_it_does() -> None:
    for words, expected in (
        (["console", "--help"], "logs you into the web console once"),
        (["console", "sessions", "--help"], "who is logged in"),
        (["console", "end", "--help"], "Number of the session"),
    ):
        answer = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        assert answer.exit_code == 0
        assert expected in answer.output
