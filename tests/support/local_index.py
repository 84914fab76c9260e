"""An index of small packages on loopback, as pip asks for one.

The lock files of tests/projects/ pin these packages: the same code makes the same bytes.
"""

import base64
import gzip
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

# Where the lock files say that the index is. Clients have the server as their proxy.
HOST = "index.test"
LOGIN = ("reader", "s3cret/of the index")


@dataclass(frozen=True)
class Package:
    """A package with a single module."""

    name: str
    version: str
    code: str
    requires: Sequence[str] = ()
    scripts: Mapping[str, str] = field(default_factory=dict)
    is_sdist: bool = False
    tag: str = "py3-none-any"
    back_end: str = ""
    """What it asks to be built with, where it is an sdist."""
    builds_beside: str = ""
    """A file that its build looks for, as for the header of a library."""

    @property
    def file(self) -> str:
        """The name of its file."""
        end = ".tar.gz" if self.is_sdist else f"-{self.tag}.whl"
        return f"{self.name}-{self.version}{end}"

    def content(self) -> bytes:
        """The bytes of its file."""
        return self._sdist() if self.is_sdist else self._wheel()

    def metadata(self) -> str:
        """What it says of itself."""
        lines = [f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"]
        extras = sorted({r.rpartition("extra == ")[2].strip("'") for r in self.requires if "extra ==" in r})
        lines += [f"Provides-Extra: {extra}\n" for extra in extras]
        return "".join([*lines, *(f"Requires-Dist: {requirement}\n" for requirement in self.requires)])

    def _wheel(self) -> bytes:
        info = f"{self.name}-{self.version}.dist-info"
        files = {
            f"{self.name}.py": self.code,
            f"{info}/METADATA": self.metadata(),
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {self.tag}\n",
        }
        if self.scripts:
            scripts = "".join(f"{name} = {target}\n" for name, target in self.scripts.items())
            files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}"
        files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w") as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name), text)
        return written.getvalue()

    def _looked_for(self) -> str:
        return f"open('{self.builds_beside}')\n" if self.builds_beside else ""

    def _sdist(self) -> bytes:
        wheel = base64.b64encode(Package(self.name, self.version, self.code, self.requires)._wheel()).decode()
        file = f"{self.name}-{self.version}-py3-none-any.whl"
        needed = f'requires = ["{self.back_end}"]' if self.back_end else "requires = []"
        files = {
            "PKG-INFO": self.metadata(),
            "pyproject.toml": f'[build-system]\n{needed}\nbuild-backend = "make"\nbackend-path = ["."]\n',
            "make.py": f"import base64\n\n{self._looked_for()}\ndef build_wheel(folder, *_):\n"
            f"    with open(f'{{folder}}/{file}', 'wb') as wheel:\n"
            f"        wheel.write(base64.b64decode('{wheel}'))\n    return '{file}'\n",
        }
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(f"{self.name}-{self.version}/{name}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return gzip.compress(plain.getvalue(), compresslevel=0, mtime=0)


PACKAGES = (
    Package("letters", "1.0", "WORDS = 'one'\n"),
    Package("letters", "2.0", "WORDS = 'two'\n", ["ink>=1 ; extra == 'color'"]),
    # Its maker has not seen the second version yet.
    Package("stamps", "1.0", "import letters\n\nPRICE = 95\nON = letters.WORDS\n", ["letters<2"]),
    Package("ink", "1.0", "COLOR = 'blue'\n"),
    Package("oldink", "1.0", "COLOR = 'black'\n"),
    Package(
        "printer", "1.0", "def main():\n    print('printed')\n", scripts={"print-letter": "printer:main"}
    ),
    Package("envelopes", "1.0", "SIZE = 'C5'\n", is_sdist=True),
    Package("folders", "1.0", "SIZE = 'A4'\n", is_sdist=True, builds_beside="/build/sdist.txt"),
    # In an environment of another Python than that of the image.
    Package(
        "bindings",
        "1.0",
        "SIZE = 'A4'\n",
        is_sdist=True,
        builds_beside="/tmp/build/lib/python3.11/site-packages/pip/__init__.py",  # noqa: S108
    ),
    Package("sealing", "1.0", "WAX = 'red'\n", is_sdist=True, back_end="waxworks>=2"),
    # For other machines only.
    Package("pigeons", "1.0", "SPEED = 80\n", tag="py3-none-win_amd64"),
)


class Handler(BaseHTTPRequestHandler):
    """Answers as a simple index does: a page for each package, and its files."""

    server: "Index"

    def do_GET(self) -> None:
        """Answer a request."""
        # Asked as a proxy, the path is a whole URL.
        path = urlsplit(self.path).path
        private, name, file = path.startswith("/private/"), *path.rstrip("/").rsplit("/", 2)[-2:]
        if private and self.headers.get("Authorization") != self.server.authorization:
            self.answer(HTTPStatus.UNAUTHORIZED, b"", {"WWW-Authenticate": "Basic"})
            return
        there = self.server.private if private else self.server.packages
        if name == "files":
            found = [package for package in there if package.file == file]
            self.answer(
                HTTPStatus.OK if found else HTTPStatus.NOT_FOUND, found[0].content() if found else b""
            )
            return
        links = "".join(self.link(package) for package in there if package.name == file)
        self.answer(HTTPStatus.OK if links else HTTPStatus.NOT_FOUND, links.encode())

    def link(self, package: Package) -> str:
        """Return the link to a package's file."""
        digest = hashlib.sha256(package.content()).hexdigest()
        return f'<a href="../files/{package.file}#sha256={digest}">{package.file}</a><br>'

    def answer(self, status: HTTPStatus, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {
            "Content-Type": "text/html",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 -- as the server calls it

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Index(ThreadingHTTPServer):
    """The index: ``/simple`` for everybody, ``/private`` for those who log in."""

    packages = tuple(package for package in PACKAGES if package.name != "oldink")
    private = tuple(package for package in PACKAGES if package.name == "oldink")
    authorization = f"Basic {base64.b64encode(':'.join(LOGIN).encode()).decode()}"

    def environment(self) -> dict[str, str]:
        """Return what pip must have in its environment to ask it, and nothing else."""
        proxy = f"http://127.0.0.1:{self.server_port}"
        return {
            "http_proxy": proxy,
            "no_proxy": "",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"http://{HOST}/simple",
            "PIP_TRUSTED_HOST": HOST,
            "PIP_FIND_LINKS": "",
        }


@contextmanager
def serve_index() -> Iterator[Index]:
    """Serve the index while something asks it."""
    with Index(("127.0.0.1", 0), Handler) as index:
        thread = threading.Thread(target=index.serve_forever, daemon=True)
        thread.start()
        yield index
        index.shutdown()
        thread.join()


def pinned(*names: str) -> str:
    """Return the lines of a requirements file that pin packages, named ``name==version``."""
    lines = []
    for name in names:
        project, _, version = name.partition("==")
        (package,) = (p for p in PACKAGES if (p.name, p.version) == (project, version))
        lines.append(f"{name} --hash=sha256:{hashlib.sha256(package.content()).hexdigest()}\n")
    return "".join(lines)
