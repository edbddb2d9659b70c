"""An upload as the API shows it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from bootplane.control.storage.uploads import Upload
from bootplane.control.uploads.parts import Progress


def document(upload: Upload, files: Sequence[Progress], kept_s: float) -> dict[str, Any]:
    """The <upload> of the reference. *files*: how far each is; *kept_s*: seconds from its last sign of life to its
    end."""
    counted = {file.sha256: progress.done for file, progress in zip(upload.files, files, strict=True)}
    done = sum(counted.values())
    rate = sum(progress.rate for progress in files)
    expires = datetime.fromisoformat(upload.touched) + timedelta(seconds=kept_s)
    return {
        "id": upload.id,
        "image": upload.resource.name,
        "title": upload.resource.title,
        "arch": upload.resource.arch,
        "subarch": upload.resource.subarch,
        "base_image": upload.resource.base_image,
        "state": upload.state,
        "version": upload.version,
        "size": upload.size,
        "done": done,
        "rate": round(rate),
        "eta_s": round((upload.size - done) / rate, 1) if rate else None,
        "files": [
            {
                "name": file.name,
                "ftype": file.ftype,
                "sha256": file.sha256,
                "size": file.size,
                "done": progress.done,
                "state": progress.state,
            }
            for file, progress in zip(upload.files, files, strict=True)
        ],
        "created": upload.created[:19] + "Z",
        "expires": expires.isoformat()[:19] + "Z",
        "error": upload.error,
    }
