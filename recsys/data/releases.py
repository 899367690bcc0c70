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
    find_release(engine, version)
    with Session(engine) as session, session.begin():
        session.add(Publication(version=version, published_at=datetime.now(UTC)))


def list_releases(engine: Engine, *, published: bool = False) -> list[Release]:
    """Every recorded release, the one made last first. The rows are detached: read them freely.

    Args:
        engine: the database.
        published: only those that were live at some time.
    """
    query = select(Release).order_by(Release.created_at.desc(), Release.version)
    if published:
        query = query.where(Release.version.in_(select(Publication.version)))
    with Session(engine) as session:
        releases = list(session.scalars(query))
        session.expunge_all()
        return releases


def find_release(engine: Engine, version: str) -> Release:
    """The recorded release of this version, detached.

    Raises:
        ReleaseError: there is none; the message names those that there are.
    """
    releases = {release.version: release for release in list_releases(engine)}
    if version not in releases:
        known = "one of " + ", ".join(releases) if releases else "of which there is none yet"
        raise ReleaseError(f"expected the version of a recorded release, {known}, came {version!r}")
    return releases[version]


def live_release(engine: Engine) -> Release | None:
    """The release published last, None before the first. The row is detached: read it freely."""
    newest = select(Publication.version).order_by(Publication.sequence.desc()).limit(1).scalar_subquery()
    with Session(engine) as session:
        release = session.scalar(select(Release).where(Release.version == newest))
        if release is not None:
            session.expunge(release)
        return release
