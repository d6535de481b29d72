"""Compare every output and its copy in DVC's cache with dvc.lock, byte by byte."""

from lenet_cifar10 import terminal
from lenet_cifar10.errors import UserError


def verify() -> None:
    """Rehash every output in the workspace and in the cache, and name what differs from dvc.lock.

    DVC itself trusts a file whose time and size are unchanged, and a read-only file in its cache, without reading it.

    \b
    Examples:
      lenet-cifar10 verify
    """
    from lenet_cifar10.verification import find_differences  # here, for importing DVC takes half a second

    table = terminal.table("Outputs", "output", "workspace", "cache")
    findings = list(find_differences())
    for finding in findings:
        table.add_row(finding.output, finding.workspace, finding.cache)
    terminal.console.print(table)
    complaints = [line for finding in findings for line in finding.complaints]
    if complaints:
        raise UserError("\n".join(complaints))
    terminal.say(f"{len(findings)} outputs, all as in dvc.lock")
