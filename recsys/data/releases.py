"""Which releases there are and which one is live. Publishing and rolling back are one row each."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from recsys.data.tables import Publication, Release
from recsys.errors import ReleaseError


def record_release(
    engine: Engine,
    *,
    version: str,
    path: str,
    data_cutoff: datetime,
    checksum: str,
    metrics: Mapping[str, Any],
    status: str = "ready",
) -> None:
    """Note that a release exists; it is not live until :func:`publish_release`.

    Recording the same release again is harmless: two nights on the same input make the same version.

    Raises:
        ReleaseError: another release, with another checksum, has this version.
    """
    release = Release(
        version=version,
        path=path,
        created_at=datetime.now(UTC),
        data_cutoff=data_cutoff,
        checksum=checksum,
        metrics=dict(metrics),
        status=status,
    )
    try:
        with Session(engine) as session, session.begin():
            session.add(release)
    except IntegrityError:
        with Session(engine) as session, session.begin():
            known = session.get_one(Release, version)
            if known.checksum != checksum:
                raise ReleaseError(
                    f"release {version}: expected checksum {known.checksum} as recorded, came {checksum}"
                ) from None
            known.path, known.metrics, known.status = path, dict(metrics), status


def publish_release(engine: Engine, version: str) -> None:
    """Make ``version`` the live release: also the way back to an earlier one.

    Raises:
        ReleaseError: no release of this version is recorded.
    """
    try:
        with Session(engine) as session, session.begin():
            session.add(Publication(version=version, published_at=datetime.now(UTC)))
    except IntegrityError as error:
        raise ReleaseError(f"expected the version of a recorded release, came {version!r}") from error


def live_release(engine: Engine) -> Release | None:
    """The release published last, None before the first. The row is detached: read it freely."""
    newest = select(Publication.version).order_by(Publication.sequence.desc()).limit(1).scalar_subquery()
    with Session(engine) as session:
        release = session.scalar(select(Release).where(Release.version == newest))
        if release is not None:
            session.expunge(release)
        return release
