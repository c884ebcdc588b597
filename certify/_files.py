"""Files: read so that whatever they hold is a value or one clear error, and written so that nobody ever finds half of one.

Certificates, checkpoints, tables and weights travel: who opens one need not know who wrote it. What is read here is checked
before it is used, nothing in it is run, and what it claims to hold is compared with its size before memory is allocated.
Readers raise `ValueError` with the reason alone; their callers know what the file was to be, and say its name.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DEEPEST",
    "FULL",
    "LARGEST_TEXT",
    "create",
    "csv_rows",
    "decoded",
    "digests",
    "json_object",
    "json_value",
    "lines",
    "locked",
    "log",
    "make_folder",
    "no_file",
    "printable",
    "read_bytes",
    "read_json",
    "read_tensors",
    "read_text",
    "regular",
    "replacing",
    "temporaries",
    "user_path",
    "write",
    "write_tensors",
]

LARGEST_TEXT = 2**28
"""Bytes of the largest text file that is read. A certificate has some hundred thousand."""

DEEPEST = 100
"""How deep lists and objects of a JSON file may lie in one another."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors that say that there is no room."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def json_value(text: str | bytes) -> Any:
    """The value of a JSON text, of which a reader in any language would make the same.

    Raises:
        ValueError: it is not UTF-8 or not JSON; a number is NaN, infinite or beyond the range of a double; an object has a key
            twice; a string is not Unicode; or it is deeper than `DEEPEST`.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(
            decoded, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite, parse_int=_whole
        )
    except RecursionError:
        raise ValueError(f"is more than {DEEPEST} lists and objects deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"must be UTF-8 ({error.reason} at byte {error.start})") from None
    _checked(value)
    return value


def json_object(text: str | bytes) -> dict[str, Any]:
    """As `json_value`, of an object.

    Raises:
        ValueError: it is another value, too.
    """
    value = json_value(text)
    if not isinstance(value, dict):
        raise ValueError(f"must be an object, is a {type(value).__name__}")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else.
    """
    return json_object(read_bytes(path))


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte-order mark; its line ends as they are.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8; the message has the line.
    """
    return decoded(read_bytes(path))


def decoded(data: bytes) -> str:
    """Text in UTF-8, with or without a byte-order mark.

    Raises:
        ValueError: it is not UTF-8; the message has the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        why = "it begins as UTF-16 does" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else error.reason
        raise ValueError(f"line {line}: must be UTF-8 ({why})") from None


def lines(text: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of those that are not blank. Not `splitlines`: a JSON string may hold what that splits at."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield number, line


def csv_rows(text: str, delimiter: str = ",", *, quoted: bool = True) -> Iterator[tuple[int, list[str]]]:
    """(line that it begins in, fields) of every row that is not empty; a quotation mark that is left open is an error.

    `quoted`: whether quotation marks hold fields together; False: they are text.

    Raises:
        ValueError: it is not CSV; the message has the line.
    """
    lines_of = io.StringIO(text, newline="")
    if quoted:
        reader = csv.reader(lines_of, strict=True, delimiter=delimiter)
    else:
        reader = csv.reader(lines_of, strict=True, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    while True:
        begin = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"line {begin}: is not CSV ({error})") from None
        if row is None:
            return
        if row:
            yield begin, row


def read_tensors(path: Path, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file. Its header is held against the file's length before anything is read.

    Args:
        path: of the file.
        sha256: of its bytes, as it is on record elsewhere; None: nothing is.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no safetensors file, has a dtype that torch does not know, or is another file than the one on record.
    """
    from safetensors import safe_open
    from safetensors.torch import load

    regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if sha256 is None:
                return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - not a mapping
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return load(data), metadata
    except Exception as error:  # what the library raises on foreign bytes is not listed anywhere
        raise ValueError(f"is not a readable safetensors file ({_said(error)})") from error
    raise ValueError("its SHA-256 is not the one on record; the two do not belong together")


def no_file(name: str, path: Path) -> None:
    """Refuses the path of a folder to write into that is a file, or a link that leads nowhere.

    Raises:
        FileExistsError: it is.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise FileExistsError(f"{name} = {str(path)!r}: is a file; must be a folder")


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of those of the files that are in a folder."""
    there = {name: folder / name for name in names}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items() if path.is_file()}


def locked(file: BinaryIO, *, shared: bool = False) -> bool:
    """Takes an open file for this process alone, until it is closed; False: another process has it.

    Where the system or the file's place has no such locks it is True.

    Args:
        file: open for writing, as a network's file systems want it.
        shared: take it together with others that do so.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def regular(path: Path) -> int:
    """The length of a file that can be read to its end: a pipe or a device would never end, or never begin.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: it is something else.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{str(path)!r}: must be a file, is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("must be a regular file")
    return status.st_size


def user_path(name: str, value: str | Path) -> Path:
    """`value` as a path, ~ replaced by the home folder.

    Raises:
        ValueError: it is no path that a file can have.
    """
    try:
        if "\0" in str(value):
            raise RuntimeError("it has a NUL")
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} = {str(value)!r}: must be a path ({error})") from None


@contextmanager
def replacing(path: Path, *, owner_only: bool = False, durable: bool = True) -> Iterator[Path]:
    """A new file beside `path`, to be filled; at the end it takes the name, so that a reader never sees half a file.

    It is on the disk before the name is, and the name before this returns: a power cut leaves the old file or the new one.
    What the name stood for is replaced: a link is not followed, and nothing that lies beside is written over. If anything
    fails, what the name stands for stays.

    Args:
        path: in an existing folder.
        owner_only: whether nobody else may read it.
        durable: False: it need not outlive this process.

    Raises:
        OSError: it cannot be written; the message has the path.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if owner_only else 0o666))
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def log(path: Path, *, owner_only: bool = False) -> BinaryIO:
    """A file to append to and to read, created if missing; `owner_only`: whether nobody else may read it then."""
    return open(path, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600 if owner_only else 0o666))


def temporaries(path: Path) -> list[Path]:
    """What `replacing(path)` left where it was killed."""
    left = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{8}")
    return [entry for entry in path.parent.iterdir() if left.fullmatch(entry.name)] if path.parent.is_dir() else []


def write(path: Path, data: bytes | str, *, owner_only: bool = False) -> None:
    """Writes a file as `replacing` does."""
    with replacing(path, owner_only=owner_only) as temporary, temporary.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


def create(path: Path, data: bytes | str, *, owner_only: bool = False) -> bool:
    """Writes a file that is not there: whole, and on the disk, before it has its name. False: another process was first."""
    mode = 0o600 if owner_only else 0o666
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:  # without links the name is taken first, and filled then
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            except FileExistsError:
                return False
            os.replace(temporary, path)
        _sync_folder(path.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None, *, owner_only: bool = False
) -> None:
    """Writes a safetensors file as `replacing` does. Tensors may share memory, and lie anywhere."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    still: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        # The format refuses two tensors in one piece of memory.
        still[name] = value.clone() if value.untyped_storage().data_ptr() in places else value
        places.add(value.untyped_storage().data_ptr())
    with replacing(path, owner_only=owner_only) as temporary:
        try:
            save_file(still, temporary, metadata=metadata)
        except SafetensorError as error:  # the library has an error of its own for a full disk
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error


def make_folder(path: Path, *, owner_only: bool = False) -> None:
    """Makes a folder, and those above it, where they are not there; on the disk when this returns.

    Args:
        path: of it.
        owner_only: whether nobody else may look into it, if it is made here.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(new):
        folder.mkdir(mode=0o700 if owner_only and folder == path else 0o777, exist_ok=True)
        _sync_folder(folder.parent)
    if not new and not path.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def printable(text: str) -> str:
    """Text of a file, for a terminal: control characters, with which a file could write over what is there, as `\\xNN`."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def read_bytes(path: Path) -> bytes:
    """The bytes of a text file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is larger than `LARGEST_TEXT`, or no regular file.
    """
    size = regular(path)
    if size > LARGEST_TEXT:
        raise ValueError(f"has {size:,} bytes, must have at most {LARGEST_TEXT:,}")
    return path.read_bytes()


def _sync(path: Path) -> None:
    place = os.open(path, os.O_RDWR)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _sync_folder(path: Path) -> None:
    """Puts a folder's names on the disk, where the system can do that."""
    try:
        place = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders; others may write into one that they cannot list
        return
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # not on this file system
            raise
    finally:
        os.close(place)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return made


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON; must be finite")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large; must be finite")
    return number


def _whole(digits: str) -> int:
    if len(digits) > 300:
        raise ValueError(f"{digits[:20]}… has {len(digits)} digits; must be finite as a double")
    return int(digits)


def _checked(value: Any) -> None:
    """Raises ValueError where a value is too deep, or a string is not Unicode."""
    level, depth = [value], 0
    while level:
        if depth > DEEPEST:
            raise ValueError(f"is more than {DEEPEST} lists and objects deep")
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _unicode(item)
            elif isinstance(item, Mapping):
                for key in item:
                    _unicode(key)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level, depth = below, depth + 1


def _unicode(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{text[:40]!r} must be Unicode text") from None


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
