"""Files in the published layouts, made here."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from lrt_jax.data.schema import FileRef, Group
from lrt_jax.data.sources.files import InputFolder


def write(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def touch(root: Path, folder: str, *names: str) -> list[FileRef]:
    """Loose files, each of which holds its own name."""
    refs = [FileRef(f"{folder}/{name}" if folder else name) for name in names]
    for ref, name in zip(refs, names, strict=True):
        write(root / ref.file, name)
    return refs


def json_lines(path: Path, rows: list[dict]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def zipped(path: Path, **members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return path


def tar_bytes(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, value in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(value)
            archive.addfile(info, io.BytesIO(value))
    return stream.getvalue()


def split_in(data: bytes, path: Path, parts: int) -> None:
    """Writes `path.00`, `path.01` and so on, as `split` does."""
    length = -(-len(data) // parts)
    for i in range(parts):
        write(path.with_name(f"{path.name}.{i:02}"), data[i * length : (i + 1) * length])


def image(name: str) -> dict:
    """A cell of the Hub's image columns."""
    return {"bytes": name.encode(), "path": f"{name}.jpg"}


def table(path: Path, rows: list[dict], **types: pa.DataType) -> Path:
    """A parquet file; `types` are those of columns that the values do not tell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        place = made.schema.get_field_index(name)
        made = made.set_column(place, name, made[name].cast(kind))
    parquet.write_table(made, path)
    return path


def shown(root: Path, groups: list[Group]) -> list[list[bytes]]:
    """What the images of each group hold."""
    refs = [ref for group in groups for ref in group.images]
    loaded = {ref: load() for ref, load in InputFolder(root).loads(refs)}
    return [[loaded[ref] for ref in group.images] for group in groups]
