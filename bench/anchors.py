"""What bootplane is measured against: Debian's nginx, varnish, tftpd-hpa, dnsmasq and atftpd, with plain settings.

Found on PATH, else downloaded by apt and unpacked into ``.cache/anchors`` (no install, no service started, no root).
One that cannot be had is named and left out of the table; its ratios are then missing, not invented.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache" / "anchors"
PACKAGES = {
    "nginx": ("nginx",),
    "in.tftpd": ("tftpd-hpa", "libwrap0"),
    "dnsmasq": ("dnsmasq-base", "libnetfilter-conntrack3", "libnfnetlink0", "libnftables1", "libnftnl11", "libmnl0",
                "libjansson4", "libdbus-1-3", "libhogweed6", "libnettle8", "libgmp10", "libidn2-0", "libxtables12"),
    "atftpd": ("atftpd", "libwrap0", "libpcre3"),
    "varnishd": ("varnish", "libvarnishapi3", "libjemalloc2"),
}  # fmt: skip
_FOLDERS = ("usr/sbin", "usr/bin")


@dataclass(frozen=True)
class Anchor:
    """One program to run: its path and the environment it needs to find its libraries."""

    name: str
    path: str
    env: dict[str, str]
    version: str


class Missing(Exception):
    """An anchor cannot be had here; the message says why."""


def find(name: str) -> Anchor:
    """Returns *name* (a key of PACKAGES), fetching it when it is not installed. Raises Missing."""
    tree = CACHE / name
    libraries = f"{tree}/usr/lib/x86_64-linux-gnu:{tree}/lib/x86_64-linux-gnu"
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    env = dict(os.environ)
    if path is None:
        path = next((str(tree / f / name) for f in _FOLDERS if (tree / f / name).exists()), None) or _fetch(name, tree)
        env["LD_LIBRARY_PATH"] = libraries
    return Anchor(name, path, env, _version(name, path, env))


def _fetch(name: str, tree: Path) -> str:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing(f"{name}: not on PATH, and there is no apt-get to fetch it with")
    tree.mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "-o", "APT::Sandbox::User=", "download", *PACKAGES[name]]
    result = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=300)
    if result.returncode:
        raise Missing(f"{name}: {(result.stderr.strip() or 'apt-get failed').splitlines()[-1]}")
    for deb in tree.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True)
        deb.unlink()
    for folder in _FOLDERS:
        if (tree / folder / name).exists():
            return str(tree / folder / name)
    raise Missing(f"{name}: its packages hold no such program")


def _version(name: str, path: str, env: dict[str, str]) -> str:
    flag = {"nginx": "-v", "in.tftpd": "-V", "dnsmasq": "--version", "varnishd": "-V", "atftpd": "--version"}[name]
    result = subprocess.run([path, flag], env=env, capture_output=True, text=True, timeout=20)
    text = (result.stdout or result.stderr).strip()
    if result.returncode:
        raise Missing(f"{name}: {path} {flag} ended with {result.returncode}: {text}")
    return text.splitlines()[0]


def nginx_config(root: Path, port: int, work: Path) -> Path:
    """One worker, sendfile, no log: nginx at its best for this work. Returns the file."""
    return _nginx_config(
        work,
        f"""  keepalive_requests 100000000; keepalive_timeout 65; open_file_cache max=1000;
  server {{ listen 127.0.0.1:{port}; root {root}; }}""",
    )


def nginx_cache_config(origin: str, port: int, work: Path, slice_size: str = "4m") -> Path:
    """One worker that caches what *origin* (H:P) has, each slice fetched once however many wait; "": whole files, each
    of them one file of its cache. Returns the file."""
    sliced = f"slice {slice_size}; proxy_set_header Range $slice_range; proxy_cache_key $uri$slice_range;"
    return _nginx_config(
        work,
        f"""  keepalive_requests 100000000; keepalive_timeout 65; open_file_cache max=10000;
  proxy_cache_path {work}/cache levels=1:2 keys_zone=herd:10m max_size=8g inactive=1h use_temp_path=off;
  upstream origin {{ server {origin}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      {sliced if slice_size else "proxy_cache_key $uri;"}
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache herd; proxy_cache_valid 200 206 1h; proxy_cache_lock on; proxy_cache_lock_timeout 10m;
      proxy_cache_lock_age 10m;
    }}
  }}""",
    )


def _nginx_config(work: Path, http: str) -> Path:
    """What both have in common, with *http* inside the http block."""
    config = work / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"""{user} daemon off; master_process on; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log;
events {{ worker_connections 16384; use epoll; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; default_type application/octet-stream;
  client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u;
  scgi_temp_path {work}/s;
{http}
}}
"""
    )
    return config
