"""`qpc verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qpc.errors import BackendError, ConfigError, VerificationError
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

if TYPE_CHECKING:
    from qpc.explanation.verification import Verified
    from qpc.given.folder import ModelFolder
    from qpc.runtime.vectors import Replayed

EXAMPLE = "qpc verify digits-pi --on ssh://pi@raspberrypi"


def command(
    reporter: Reporter,
    model: Annotated[
        Path, typer.Argument(help="Folder of an exported library, or of a compiled model.")
    ],
    on: Annotated[
        str | None, typer.Option(help="Run it there: ssh://user@host; here by default.")
    ] = None,
    cpu: Annotated[str | None, typer.Option(help="QEMU's name of a CPU to emulate.")] = None,
    cc: Annotated[str | None, typer.Option(help="The C compiler for the target.")] = None,
) -> Answer:
    """Replay what a deployed model must give, and demand every byte.

    A library replays its test vectors, and so does a compiled model that is alone; with the graph
    beside it, it is compared with that.
    """
    from qpc.documents import named_backend
    from qpc.given.folder import ModelFolder
    from qpc.terminal.hints import quoted
    from qpc.terminal.plain import plain

    kept = ModelFolder.at(model)
    if kept is not None or named_backend(model) is not None:
        if on or cpu or cc:
            raise ConfigError("--on, --cpu and --cc are for exported libraries")
        return _alone(reporter, model) if kept is None else _of_folder(reporter, model, kept)
    with reporter.phase("importing"):
        from qpc.backends.deploy.verify import Where, verify
    with reporter.phase("replaying test vectors"):
        try:
            found = verify(model, Where(on, cpu, cc))
        except BackendError as e:
            if type(e) is not BackendError:
                raise  # damage, or something that is missing
            raise VerificationError(e.what, fix=e.fix) from e
    data = plain(found)
    assert isinstance(data, dict)
    return Answer(data, (str(found),), then=(f"qpc bench {quoted(model)}",))


def _alone(reporter: Reporter, path: Path) -> Answer:
    """A compiled model, which says itself what it must give."""
    with reporter.phase("importing"):
        from qpc.given.model import model_of
    model = model_of(str(path)).compiled
    assert model is not None
    with reporter.phase("replaying test vectors"):
        found = model.verify()
    return _answer(found, path)


def _of_folder(reporter: Reporter, path: Path, kept: ModelFolder) -> Answer:
    """A compiled model, compared with the graph that it was made from."""
    from qpc.terminal.hints import quoted

    if kept.compiled is None:
        raise ConfigError(f"{str(path)!r} is not compiled yet", fix=f"qpc compile {quoted(path)}")
    with reporter.phase("importing"):
        from qpc.explanation.verification import verified
        from qpc.given.model import model_of
    model = model_of(str(path))
    assert model.compiled is not None
    with reporter.phase("verifying"):
        found = verified(model.require_graph("verify"), model.compiled, told=reporter.told)
    return _answer(found, path)


def _answer(found: Replayed | Verified, path: Path) -> Answer:
    """What was found out about a compiled model. Raises VerificationError if it is wrong."""
    from qpc.terminal.hints import quoted
    from qpc.terminal.plain import plain

    if not found.well:
        raise VerificationError(str(found), fix="compile the graph again: qpc compile")
    data = plain(found)
    assert isinstance(data, dict)
    return Answer(data, (str(found),), then=(f"qpc bench {quoted(path)}",))
