"""What DVC has in its cache."""


def has(md5: str | None) -> bool:
    """Whether the cache of the DVC project around the current folder has the file with this MD5; None is no file."""
    if md5 is None:
        return False
    from dvc.exceptions import DvcException  # here, for importing DVC takes half a second and is seldom needed
    from dvc.repo import Repo

    try:
        return bool(Repo().cache.local.exists(md5))
    except DvcException:  # such as outside of a project
        return False
