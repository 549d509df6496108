"""The places a rule may speak of, as data: what starts things later, accounts, sockets that give control.

Secrets are in `hidden`, which the sandbox masks by. This table is for judging alone. Names only: what a
link, a bind mount or a hard link leads to is for `places` to find out.
"""

from __future__ import annotations

import re

# What the machine starts from.
BOOT = ("/boot", "/efi", "/lib/modules", "/usr/lib/modules", "/usr/lib/grub")

# Who may become whom: changing these gives power over the whole machine.
ACCOUNTS = (
    "/etc/passwd", "/etc/passwd-", "/etc/group", "/etc/group-", "/etc/shadow", "/etc/gshadow",
    "/etc/subuid", "/etc/subgid", "/etc/sudoers", "/etc/sudoers.d", "/etc/doas.conf", "/etc/pam.d",
    "/etc/pam.conf", "/etc/security", "/etc/ld.so.preload", "/etc/polkit-1", "/usr/share/polkit-1",
)  # fmt: skip

# What is read or run later without anybody asking for it: services, timers, log-in scripts, hooks.
STARTUP = (
    "/etc/systemd", "/lib/systemd", "/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd",
    "/etc/init.d", "/etc/init", "/etc/inittab", "/etc/rc.local", "/etc/cron.d", "/etc/cron.hourly",
    "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly", "/etc/crontab", "/etc/anacrontab",
    "/etc/at.allow", "/var/spool/at", "/etc/profile", "/etc/profile.d", "/etc/bash.bashrc", "/etc/bashrc",
    "/etc/zsh", "/etc/zshenv", "/etc/zshrc", "/etc/environment", "/etc/environment.d", "/etc/skel",
    "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/udev", "/usr/lib/udev", "/lib/udev", "/etc/modules",
    "/etc/modules-load.d", "/etc/modprobe.d", "/etc/sysctl.conf", "/etc/sysctl.d", "/etc/tmpfiles.d",
    "/etc/apt", "/etc/dpkg", "/etc/yum.repos.d", "/etc/dnf", "/etc/NetworkManager/dispatcher.d",
    "/etc/network", "/etc/dhcp", "/etc/logrotate.d", "/etc/update-motd.d", "/etc/xdg/autostart",
    "/etc/dbus-1", "/usr/share/dbus-1", "/etc/ssh", "/etc/fstab", "/etc/default", "/etc/grub.d",
    "/etc/initramfs-tools", "/etc/dracut.conf", "/etc/dracut.conf.d", "/etc/hosts", "/etc/nsswitch.conf",
    "/etc/resolv.conf", "/etc/gitconfig", "/etc/docker", "/etc/containers",
)  # fmt: skip
STARTUP_HOME = (
    ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".bash_aliases", ".profile", ".zshrc",
    ".zshenv", ".zprofile", ".zlogin", ".zlogout", ".kshrc", ".cshrc", ".tcshrc", ".login", ".inputrc",
    ".config/fish", ".xprofile", ".xinitrc", ".xsession", ".xsessionrc", ".pam_environment",
    ".config/environment.d", ".config/autostart", ".config/systemd", ".local/share/systemd",
    ".local/share/dbus-1", ".config/plasma-workspace", ".gitconfig", ".config/git", ".vimrc", ".vim",
    ".config/nvim", ".emacs", ".emacs.d", ".config/emacs", ".tmux.conf", ".screenrc", ".gdbinit",
    ".config/gdb", ".pythonrc", ".config/pip", ".cargo/config.toml", ".config/containers", ".bin", "bin",
    ".local/bin", ".cargo/bin", "go/bin", ".local/lib", ".vscode", ".config/Code",
)  # fmt: skip
# In a working folder: what a tool runs the next time somebody uses it there.
STARTUP_ENDS = ("/.git/hooks", "/.git/config", "/.husky", "/.vscode/tasks.json", "/.github/workflows")

# Speaking to one of these is speaking to a process that may do anything (an engine, a session, an agent).
_RUN_CONTROL = (
    "/run/docker.sock", "/run/containerd", "/run/podman", "/run/crio", "/run/dbus", "/run/systemd/private",
    "/run/systemd/notify", "/run/systemd/journal", "/run/user", "/run/libvirt", "/run/lxd",
    "/var/lib/lxd", "/var/snap/lxd", "/run/snapd.socket", "/run/snapd-snap.socket", "/run/cockpit",
    "/run/incus", "/var/lib/incus", "/run/buildkit", "/run/udev/control",
)  # fmt: skip
# Each also by its older name under /var/run, as it is typed.
CONTROL = _RUN_CONTROL + tuple(f"/var{place}" for place in _RUN_CONTROL if place.startswith("/run"))

# Keys and passwords beyond what the sandbox masks, by the folder they lie in, anywhere.
SECRET_FOLDERS = frozenset(
    {".ssh", ".gnupg", ".aws", ".azure", ".kube", ".password-store", ".pki", ".oci", ".vault", ".credentials"}
)
SECRET_PLACES = ("/run/secrets", "/run/credentials", "/run/agenix", "/run/sops-nix", "/run/keys",
                 "/var/lib/private", "/var/lib/systemd/credential.secret", "/etc/credstore",
                 "/etc/credstore.encrypted", "/usr/lib/credstore", "/root/.ssh")  # fmt: skip
SECRET_NAMES = frozenset(
    {"id_rsa", "id_ecdsa", "id_ed25519", "id_dsa", "id_ecdsa_sk", "id_ed25519_sk", "id_xmss", "identity.ppk",
     ".netrc", "_netrc", ".git-credentials", ".pgpass", ".my.cnf", "authorized_keys", ".htpasswd",
     "shadow", "gshadow", "krb5.keytab", ".vault-token", ".bash_history", ".zsh_history",
     ".python_history", ".psql_history", ".mysql_history", ".node_repl_history"}
)  # fmt: skip

# Names that often hold keys and sometimes do not: reading them is asked about. One pattern on the folded
# name of the file; programs that are called secrets.py or tokenizer.go are none of them.
_WORDS = r"(?:secrets?|passwords?|credentials?|tokens?|api[_-]?keys?|private[_-]?keys?|service[_-]?accounts?)"
_DATA = r"(?:json|ya?ml|toml|ini|txt|conf|cfg|properties|xml|csv|db|sqlite3?|bak|old|enc|env|kdbx?)"
SENSITIVE = re.compile(
    rf"(?:[\w.-]*[._-])?{_WORDS}(?:[_-][\w-]+)?(?:(?:\.[\w-]+)*\.{_DATA})?"
    r"|.+\.(?:key|pem|p12|pfx|p8|ppk|jks|keystore|kdbx?|ovpn|tfstate|tfvars|keytab|agekey|jwk|wallet|env)"
    r"(?:\.(?:bak|backup|old|orig|save|\d+))?"
    r"|id_(?:rsa|dsa|ecdsa|ed25519)[\w.-]*|kubeconfig|.+\.kubeconfig|wp-config\.php|database\.ya?ml"
    r"|\.(?:npmrc|pypirc|dockercfg|dockerconfigjson|s3cfg|boto|vault_pass.*)|rclone\.conf|wg\d+\.conf"
    r"|wallet\.dat|cookies\.sqlite|logins\.json|key4\.db|master\.key|\.?htpasswd"
)
SENSITIVE_OPEN = re.compile(r".+\.pub|(?:.*[._-])?(?:full)?(?:cert|chain|ca|cacert|public)[\w-]*\.pem")
SENSITIVE_OPEN_PLACES = ("/etc/ssl/certs", "/usr/share", "/usr/lib", "/etc/ca-certificates")
SENSITIVE_FOLDERS = frozenset({"secrets", ".secrets", "credentials"})
