"""What a remote of DVC's needs so that another clone gets the outputs of a run instead of running it again.

`dvc push` sends the records of all runs, but only those of their outputs that Git does not track. The metrics and plots
that it does, which the cache has for the run-cache alone, stay behind, and a stage that wrote any of them is then not
restored but run.
"""

from dataclasses import dataclass
from pathlib import Path

from dvc.lock import LockError
from dvc.repo import Repo

from lenet_cifar10.errors import UserError


@dataclass(frozen=True)
class Sent:
    """How many records of stages' runs a remote has been given, and how many of their outputs it lacked."""

    runs: int
    outputs: int


def push(root: Path, remote: str | None = None) -> Sent:
    """Give a remote, else the default one, the records of all runs in the run-cache and every output that they name.

    Of the outputs, those that the cache has: `dvc gc` may have removed some.

    Raises:
        UserError: there is no such remote, or it cannot be written, or its kind keeps no records or wants a package.
    """
    place = f"remote {remote}" if remote else "the default remote"
    try:
        with Repo(str(root)) as repo, repo.lock:
            records = sorted(Path(repo.stage_cache.cache_dir).glob("??/*/[!.]*"))
            named = repo.stage_cache.get_used_objs([(path.parent.name, path.name) for path in records], force=True)
            outputs = {output for found in named.values() for output in found}
            sent = repo.cloud.push({o for o in outputs if repo.cache.local.exists(o.value)}, remote=remote)
            repo.stage_cache.push(remote)
            # Of a record that could not be sent DVC says so, and goes on.
            store = repo.cloud.get_remote_odb(remote, "push", hash_name="md5-dos2unix")
            arrived = {store.fs.name(path) for path in store.fs.find(store.fs.join(store.path, "runs"))}
    except LockError:
        raise UserError(f"{root}: another dvc is at work there; give the command again when it is done") from None
    except ImportError as error:  # DVC names the package
        raise UserError(f"{place}: {_line(error)}; pip install it into the environment that runs this") from None
    except Exception as error:  # each kind of remote has errors of its own, which DVC lets through
        raise UserError(
            f"{place}: {_line(error)}; see whether dvc remote list has it, and whether you may write to it"
        ) from None
    if failed := len(sent.failed) + sum(path.name not in arrived for path in records):
        raise UserError(f"{place}: {failed} files could not be sent; give the command again")
    return Sent(len(records), len(sent.transferred))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
