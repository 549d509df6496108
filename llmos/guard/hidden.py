"""What no sandboxed command may read, as data: secrets, histories, and llmos' own files.

Independent of tools and policies: no manifest, no rule and no approval opens these. Each entry is
masked by an empty, read-only file or folder; a pattern is expanded on the host when the call starts.
What it does not protect against: a secret under a name that is not in the table.
"""

from __future__ import annotations

import glob
import os

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
    "/var/spool/cron", "/var/backups", "/boot/efi", "/swapfile", "/swap.img",
    "/run/secrets", "/var/run/secrets",
    *(f"/tmp/{name}" for name in (".X11-unix", ".ICE-unix", "ssh-*", "tmux-*", "screen*", ".docker*")),  # noqa: S108
)  # fmt: skip

# At the top of the current folder and of each write root; `secretscan` looks deeper, a moment later.
PROJECT = (".env", ".env.*", ".envrc", ".netrc", ".git-credentials")
PROJECT_OPEN = (".env.example", ".env.sample", ".env.template", ".env.dist", ".env.schema")


def own_places() -> tuple[str, ...]:
    """The daemon's state, configuration and socket, wherever the environment has put them."""
    return tuple(map(str, (paths.state_dir(), paths.config_dir(), paths.socket_path())))


def candidates(home: str, folders: tuple[str, ...], *, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Every path to mask for a caller with this home, working in these folders; sorted, unexpanded absent.

    Only the names are looked up here. The launcher masks what exists at the moment of the call.
    """
    found = {f"{home}/{name}" for name in HOME}
    found.update(own_places())
    found.update(more)
    for pattern in SYSTEM:
        found.update(_expand("/", pattern[1:]) if "*" in pattern else (pattern,))
    for folder in folders:
        for pattern in PROJECT:
            found.update(_expand(folder, pattern))
    kept = (path for path in found if not path.endswith(PROJECT_OPEN))
    return tuple(sorted(path for path in kept if os.path.lexists(path)))


def _expand(folder: str, pattern: str) -> list[str]:
    return glob.glob(f"{glob.escape(folder)}/{pattern}".replace("//", "/"))  # noqa: PTH207 - faster
