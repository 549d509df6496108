"""What no sandboxed command may read, as data: secrets, histories, and llmos' own files.

Independent of tools and policies: no manifest, no rule and no approval opens these. Each entry is
masked by an empty, read-only file or folder; a pattern is expanded on the host when the call starts.
What it does not protect against: a secret under a name that is not in the table.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llmos import paths

# Below the caller's home.
HOME = (
    ".ssh", ".gnupg", ".pki", ".aws", ".azure", ".kube", ".oci", ".config/gcloud", ".config/gh",
    ".config/hub", ".config/glab-cli", ".config/op", ".config/rclone", ".config/sops", ".config/doctl",
    ".docker/config.json", ".netrc", "_netrc", ".git-credentials", ".config/git/credentials", ".pgpass",
    ".my.cnf", ".mylogin.cnf", ".npmrc", ".yarnrc.yml", ".pypirc", ".gem/credentials",
    ".cargo/credentials", ".cargo/credentials.toml", ".m2/settings.xml", ".gradle/gradle.properties",
    ".terraform.d/credentials.tfrc.json", ".terraformrc", ".vault-token", ".boto", ".s3cfg",
    ".password-store", ".local/share/keyrings", ".local/share/kwalletd", ".kde/share/apps/kwallet",
    ".config/keepassxc", ".config/Bitwarden", ".config/1Password", ".Xauthority", ".ICEauthority",
    ".bash_history", ".zsh_history", ".zhistory", ".histfile", ".local/share/fish/fish_history",
    ".python_history", ".node_repl_history", ".psql_history", ".mysql_history", ".sqlite_history",
    ".rediscli_history", ".lesshst", ".viminfo", ".local/state/bash/history",
    ".mozilla", ".thunderbird", ".config/google-chrome", ".config/chromium", ".config/BraveSoftware",
    ".config/microsoft-edge", ".config/vivaldi", ".config/opera", ".cache/mozilla",
    ".cache/google-chrome", ".cache/chromium", ".local/share/containers/storage",
    ".claude", ".claude.json", ".codex", ".gemini", ".config/github-copilot",
    ".local/share/evolution", ".config/Signal", ".config/Slack", ".config/discord",
    ".cursor", ".config/goose", ".local/share/opencode", ".openai", ".config/openai", ".config/anthropic",
    ".bundle/config", ".composer/auth.json", ".config/composer/auth.json", ".nuget/NuGet/NuGet.Config",
    ".config/containers/auth.json", ".config/helm/registry", ".huggingface/token", ".cache/huggingface/token",
    ".databrickscfg", ".snowsql", ".dbt/profiles.yml", ".config/configstore", ".config/stripe",
    ".config/ngrok", ".ngrok2", ".config/fly", ".fly", ".config/heroku", ".config/netlify", ".vercel",
    ".circleci/cli.yml", ".tsh", ".vault_pass", ".config/solana", ".ethereum/keystore", ".bitcoin/wallet.dat",
    ".electrum", ".subversion/auth", ".cvspass", ".msmtprc", ".fetchmailrc", ".mutt", ".purple", ".vnc",
    ".config/filezilla", ".config/remmina", ".local/share/remmina", ".putty", ".gnome2/keyrings",
    ".irb_history", ".dbshell", ".mongorc.js", ".wget-hsts", "snap/firefox", "snap/chromium", ".var/app",
)  # fmt: skip

# Files of the machine. An ID-mapped view shows root's own files to a root caller, so what only root
# can read, and what would give others root, is named here.
SYSTEM = (
    "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/ssh/ssh_host_*_key",
    "/etc/sudoers", "/etc/sudoers.d", "/etc/ssl/private", "/etc/pki/tls/private", "/etc/letsencrypt",
    "/etc/wireguard", "/etc/openvpn", "/etc/ipsec.secrets", "/etc/krb5.keytab", "/etc/ppp/chap-secrets",
    "/etc/NetworkManager/system-connections", "/etc/netplan", "/etc/kubernetes", "/etc/rancher",
    "/etc/docker/key.json", "/etc/security/opasswd", "/etc/crypttab", "/etc/mysql/debian.cnf",
    "/var/lib/sss", "/var/lib/NetworkManager", "/var/lib/bluetooth", "/var/lib/systemd/random-seed",
    "/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/llmos", "/etc/llmos",
    "/etc/apt/auth.conf", "/etc/apt/auth.conf.d", "/etc/ppp/pap-secrets", "/etc/postfix/sasl_passwd",
    "/etc/exim4/passwd.client", "/var/lib/samba/private", "/etc/credstore", "/etc/credstore.encrypted",
    "/var/lib/systemd/credential.secret", "/var/lib/cloud", "/var/lib/tailscale", "/etc/cloudflared",
    "/etc/vault.d", "/etc/salt/pki", "/etc/puppetlabs/puppet/ssl", "/etc/gitlab/gitlab-secrets.json",
    "/var/lib/jenkins/secrets", "/var/lib/ipa/private", "/etc/ceph", "/etc/boto.cfg",
    "/var/spool/cron", "/var/backups", "/boot/efi", "/swapfile", "/swap.img",
    "/run/secrets", "/var/run/secrets",
    *(f"/tmp/{name}" for name in (".X11-unix", ".ICE-unix", "ssh-*", "tmux-*", "screen*")),  # noqa: S108
    "/tmp/.docker*", "/tmp/krb5cc*",  # noqa: S108
)  # fmt: skip

# At the top of the current folder and of each write root; `secretscan` looks deeper, a moment later.
PROJECT = (".env", ".env.*", ".envrc", ".netrc", ".git-credentials")
PROJECT_OPEN = (".env.example", ".env.sample", ".env.template", ".env.dist", ".env.schema")


# What `paths` looks at for them.
_PLACED_BY = (
    *("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"),
    *("XDG_CACHE_HOME", "LLMOS_SOCKET", "LLMOS_FORKS_DIR", "LLMOS_MODELS_DIR", "LLMOS_PREPARED_DIR"),
)


def own_places() -> tuple[str, ...]:
    """The daemon's state, configuration, socket and code, wherever the environment has put them."""
    return _own_places(*map(os.environ.get, _PLACED_BY))


@functools.lru_cache(maxsize=8)
def _own_places(*placed: str | None) -> tuple[str, ...]:
    state = paths.state_dir()
    built = (paths.forks_dir(), paths.kernels_dir())  # code that is run outside of every sandbox
    code = (folder for folder in built if not folder.is_relative_to(state))
    return tuple(map(str, (state, paths.config_dir(), paths.socket_path(), *code)))


def candidates(home: str, folders: tuple[str, ...], *, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Every path to mask for a caller with this home, working in these folders; sorted, none that is absent.

    Only the names are looked up here. The launcher masks what exists at the moment of the call.
    """
    found = {path for path in (*own_places(), *more) if os.path.lexists(path)}
    found.update(_below(home, _home_tree()))
    found.update(_below("", _system_tree()))
    for folder in folders:
        found.update(_look(folder, _PROJECT_NODE).found)
    return tuple(sorted(path for path in found if not path.endswith(PROJECT_OPEN)))


class _Node:
    """What to look for in one folder, and which of its folders to look into: one look serves all names."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.plain = {pattern for pattern in patterns if "*" not in pattern}
        self.globs = [pattern for pattern in patterns if "*" in pattern]
        self.ways: dict[str, _Node] = {}

    def add(self, path: list[str]) -> None:
        if len(path) > 1:
            self.ways.setdefault(path[0], _Node()).add(path[1:])
        elif "*" in path[0]:
            self.globs.append(path[0])
        else:
            self.plain.add(path[0])

    def wants(self, name: str) -> bool:
        return name in self.plain or any(fnmatch.fnmatchcase(name, glob) for glob in self.globs)


_PROJECT_NODE = _Node(PROJECT)


@functools.cache
def _home_tree() -> _Node:
    return _tree(HOME)


@functools.cache
def _system_tree() -> _Node:
    return _tree(path.lstrip("/") for path in SYSTEM)


def _tree(paths: Iterable[str]) -> _Node:
    top = _Node()
    for path in paths:
        top.add(path.split("/"))
    return top


@dataclass(frozen=True, slots=True)
class _Seen:
    found: tuple[str, ...] = ()
    ways: tuple[tuple[str, _Node], ...] = ()  # those that are there


def _below(folder: str, node: _Node) -> Iterator[str]:
    """The paths in `folder` and below that are wanted. What a folder does not hold has nothing below it."""
    seen = _look(folder, node)
    yield from seen.found
    for place, way in seen.ways:
        yield from _below(place, way)


_MAX_REMEMBERED = 4096
_SETTLED_NS = 50_000_000  # a folder that changed a moment ago may change again within one tick of its clock
_looked: dict[tuple[str, _Node], tuple[tuple[int, int], _Seen]] = {}


def _look(folder: str, node: _Node) -> _Seen:
    """What of it is in `folder`; read again only when the folder has changed."""
    try:
        there = os.stat(folder or "/")
    except OSError:
        return _Seen()
    state = there.st_ino, there.st_ctime_ns  # not the time of modification, which a command can set back
    known = _looked.get((folder, node))
    if known is not None and known[0] == state:
        return known[1]
    seen = _read(folder, node)
    if time.time_ns() - there.st_ctime_ns > _SETTLED_NS:
        if len(_looked) > _MAX_REMEMBERED:
            _looked.clear()
        _looked[folder, node] = state, seen
    return seen


def _read(folder: str, node: _Node) -> _Seen:
    prefix = folder.rstrip("/")
    try:
        with os.scandir(folder or "/") as listing:
            names = {entry.name for entry in listing}
    except OSError:  # what cannot be listed may still be passed through
        return _Seen((), tuple((f"{prefix}/{name}", way) for name, way in node.ways.items()))
    found = tuple(f"{prefix}/{name}" for name in names if node.wants(name))
    return _Seen(found, tuple((f"{prefix}/{name}", way) for name, way in node.ways.items() if name in names))
