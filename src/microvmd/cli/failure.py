"""What a command says when it cannot go on: what is wrong, and the next step.

Every expected error of a client (no server, no profile, an AWS error) ends here in two lines and
exit code 1; anything else is a bug and shows its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import typer
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, ProfileNotFound
from rich.markup import escape

from microvmd.cli.output import stderr
from microvmd.service.context import ContextError
from microvmd.service.failure import Failure
from microvmd.settings.settings import ConfigFileMissing

START = "start it: microvmd serve (or ./run serve in a checkout)"


@contextmanager
def reported() -> Iterator[None]:
    """Turn every expected error into its two lines."""
    try:
        yield
    except Failure as failure:
        _stop(failure.message, failure.hint)
    except ContextError as error:
        _stop(str(error), "")
    except ConfigFileMissing as error:
        _stop(str(error), "mend or unset the variable")
    except ProfileNotFound as error:
        _stop(str(error), f"the service writes it when it starts; {START}")
    except EndpointConnectionError as error:
        _stop(f"no answer from {error.kwargs.get('endpoint_url')}", START)
    except httpx.ConnectError as error:
        _stop(f"no answer from {error.request.url.host}", START)
    except ClientError as error:
        found = error.response.get("Error", {})
        code, message = found.get("Code", "Error"), found.get("Message", "")
        _stop(f"{code}: {message}", _hint(code, error.operation_name))
    except BotoCoreError as error:
        _stop(str(error), "")


def _hint(code: str, operation: str) -> str:
    if code == "ResourceNotFoundException":
        noun = "images list" if "Image" in operation else "ps --all"
        return f"see what there is: microvmd {noun}"
    if code in ("InvalidSignatureException", "UnrecognizedClientException"):
        return f"the profile is of another service: {START} again, which writes it anew"
    if code == "ServiceQuotaExceededException":
        return "terminate MicroVMs that are no longer needed: microvmd ps, microvmd terminate ID"
    return ""


def _stop(message: str, hint: str) -> None:
    stderr.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    if hint:
        stderr.print(f"[dim]next:[/] {escape(hint)}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)
