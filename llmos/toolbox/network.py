"""The network, looked at: interfaces, names, reachability, connections. Nothing is configured here.

Looking a name up and pinging talk to other machines, which the plan says (`network`), so they are asked
about like any other connection: a name that is looked up is told to somebody. What stays on this machine is
free.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]

from llmos import rights
from llmos.errors import CallFailed, UsageError
from llmos.messages import Effects, JsonObject, Observe
from llmos.toolbox.context import Args, Context, Draft, Pair
from llmos.toolbox.services import observing
from llmos.toolbox.values import human_size, table

_DNS_TIMEOUT_S = 3.0
_PING_TIMEOUT_S = 2.0
_PING_INTERVAL_S = 0.5
_KINDS = ("A", "AAAA", "CNAME", "MX", "TXT")  # asked of a named server
_MAX_NAME = 253


def _host(tool: str, argument: str, text: str) -> str:
    """A machine's name or address, checked; raises UsageError."""
    host = text.strip().rstrip(".")
    if _address(host):
        return host
    try:
        spelt = host.encode("idna").decode("ascii")
    except UnicodeError:
        spelt = ""
    labels = spelt.split(".")
    if not spelt or len(spelt) > _MAX_NAME or not all(map(_is_label, labels)):
        raise UsageError(
            f"{tool}: argument `{argument}`: {text[:80]!r} is no machine's name or address",
            "Give a name like example.org, or an address.",
        )
    return spelt.lower()


def _is_label(label: str) -> bool:
    return bool(label) and label.replace("-", "").replace("_", "").isalnum() and not label.startswith("-")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _stays_here(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _talking(*hosts: str) -> Effects:
    return Effects(network=tuple(host for host in hosts if not _stays_here(host)))


# --- interfaces ----------------------------------------------------------------------------------


def interfaces(args: JsonObject) -> str:
    """Every interface with its state and addresses, then where everything else goes."""
    states, addresses = psutil.net_if_stats(), psutil.net_if_addrs()
    counters = psutil.net_io_counters(pernic=True)
    names = sorted(set(states) | set(addresses))
    if wanted := args.get("name"):
        if wanted not in names:
            raise UsageError(f"there is no interface {wanted!r}", f"There are: {', '.join(names)}.")
        names = [wanted]
    rows = [
        (
            name,
            _state(states.get(name)),
            ", ".join(_addresses(addresses.get(name, []))) or "-",
            *_traffic(counters, name),
        )
        for name in names
    ]
    text = table([("NAME", "STATE", "ADDRESSES", "RECEIVED", "SENT"), *rows])
    return text + "".join(
        f"Default route: {via}\n" for via in _default_routes() if not wanted or wanted in via.split()
    )


def _state(state: psutil._common.snicstats | None) -> str:
    if state is None:
        return "?"
    return "up" + (f", {state.speed} Mb/s" if state.speed else "") if state.isup else "down"


def _addresses(found: list[psutil._common.snicaddr]) -> Iterator[str]:
    for one in found:
        if one.family in (socket.AF_INET, socket.AF_INET6):
            address = one.address.partition("%")[0]
            yield f"{address}{_prefix(one.netmask)}"


def _prefix(netmask: str | None) -> str:
    mask = _address(netmask or "")
    return f"/{bin(int(mask)).count('1')}" if mask else ""


def _traffic(counters: dict[str, psutil._common.snetio], name: str) -> tuple[str, str]:
    found = counters.get(name)
    return (human_size(found.bytes_recv), human_size(found.bytes_sent)) if found else ("-", "-")


def _default_routes() -> Iterator[str]:
    """From the kernel's table for IPv4 (proc(5)): addresses there are hexadecimal, in host order."""
    try:
        lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return
    for words in map(str.split, lines):
        if len(words) > 7 and words[1] == words[7] == "00000000":
            gateway = ipaddress.ip_address(int.from_bytes(bytes.fromhex(words[2]), "little"))
            yield f"{gateway} by {words[0]}"


# --- names ---------------------------------------------------------------------------------------


def plan_dns(args: Args, context: Context) -> Draft:
    name = _host("net.dns", "name", args["name"])
    server = _host("net.dns", "server", args["server"]) if args["server"] else ""
    step = Observe(observer="net.dns", args={"name": name} | ({"server": server} if server else {}))
    words = f"dig @{server} {name}" if server else f"getent ahosts {name}"
    return Draft((step,), _talking(*([server] if server else []), name), words)


def dns(args: JsonObject) -> str:
    name, server = str(args["name"]), str(args.get("server", ""))
    rows = list(_ask_server(name, server) if server else _ask_system(name))
    if not rows:
        return f"{name} has no address.\n"
    return table(list(dict.fromkeys(rows)))


def _ask_system(name: str) -> Iterator[tuple[str, str]]:
    """As every program here looks names up (getaddrinfo(3)); an address is looked up backwards."""
    try:
        if _address(name):
            yield "PTR", socket.gethostbyaddr(name)[0]
            return
        for family, _, _, _, place in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
            yield ("AAAA" if family == socket.AF_INET6 else "A"), str(place[0])
    except socket.gaierror as error:
        raise CallFailed(
            f"{name} cannot be looked up: {error.strerror}",
            "Check the spelling, and: llmos call net.interfaces",
        ) from error
    except OSError as error:
        raise CallFailed(f"{name} has no name: {error.strerror}", "Not every address has one.") from error


def _ask_server(name: str, server: str) -> Iterator[tuple[str, str]]:
    import dns.exception
    import dns.resolver
    import dns.reversename

    resolver = dns.resolver.Resolver(configure=False)
    resolver.lifetime = _DNS_TIMEOUT_S
    try:
        resolver.nameservers = [server if _address(server) else socket.gethostbyname(server)]
        queries = (
            [(dns.reversename.from_address(name), "PTR")] if _address(name) else [(name, k) for k in _KINDS]
        )
        for query, kind in queries:
            answer = resolver.resolve(query, kind, raise_on_no_answer=False)
            yield from ((kind, record.to_text()) for record in answer.rrset or ())
    except dns.resolver.NXDOMAIN:
        return
    except (dns.exception.DNSException, OSError) as error:
        raise CallFailed(
            f"{server} does not answer: {str(error).partition(';')[0] or type(error).__name__}",
            "Is it a name server? Try another.",
        ) from error


# --- ping ----------------------------------------------------------------------------------------


def plan_ping(args: Args, context: Context) -> Draft:
    host = _host("net.ping", "host", args["host"])
    step = Observe(observer="net.ping", args={"host": host, "count": args["count"]})
    return Draft((step,), _talking(host), f"ping -c {args['count']} {host}")


def ping(args: JsonObject) -> str:
    import icmplib

    host, count = str(args["host"]), int(args["count"])
    try:
        found = _ping(host, count)
    except icmplib.NameLookupError as error:
        raise CallFailed(
            f"{host} cannot be looked up", "Check the spelling, and: llmos call net.dns"
        ) from error
    except icmplib.ICMPLibError as error:
        raise CallFailed(f"{host} cannot be pinged: {error}", "See: llmos call net.interfaces") from error
    if not found.is_alive:
        raise CallFailed(
            f"{host} ({found.address}) does not answer: {found.packets_sent} sent, none came back",
            "It may be down, or answer no pings.",
        )
    times = f"{found.min_rtt:.2f} / {found.avg_rtt:.2f} / {found.max_rtt:.2f} ms"
    return table([
        ("Host", f"{host} ({found.address})"),
        ("Answers", f"{found.packets_received} of {found.packets_sent}"),
        ("Time", f"{times} (shortest / mean / longest)"),
    ])  # fmt: skip


def _ping(host: str, count: int) -> icmplib.Host:  # type: ignore[name-defined] # noqa: F821
    """Over a raw socket where we may have one, else over the kernel's own for pings (icmp(7))."""
    import icmplib

    bounds = {"count": count, "interval": _PING_INTERVAL_S, "timeout": _PING_TIMEOUT_S}
    try:
        return icmplib.ping(host, privileged=True, **bounds)
    except icmplib.SocketPermissionError:
        pass
    try:
        return icmplib.ping(host, privileged=False, **bounds)
    except icmplib.SocketPermissionError as error:
        raise CallFailed(
            "this user may not send pings", 'Allow it: sysctl -w net.ipv4.ping_group_range="0 2147483647"'
        ) from error


# --- connections ---------------------------------------------------------------------------------


def connections(args: JsonObject) -> str:
    """TCP connections and, with state `all`, every socket; whose they are as far as the caller may know."""
    state, port = str(args["state"]), args.get("port")
    with rights.acting_as(int(args["uid"])):
        rows = sorted(
            _row(one)
            for one in psutil.net_connections(kind="inet")
            if _is_meant(one, state) and _uses(one, port)
        )
    if not rows:
        return f"No {'' if state == 'all' else state + ' '}connection{f' on port {port}' if port else ''}.\n"
    return table([("KIND", "LOCAL", "REMOTE", "STATE", "PROCESS"), *rows])


def _is_meant(one: psutil._common.sconn, state: str) -> bool:
    names = {"established": psutil.CONN_ESTABLISHED, "listening": psutil.CONN_LISTEN}
    return state == "all" or one.status == names[state]


def _uses(one: psutil._common.sconn, port: int | None) -> bool:
    return port is None or port in {end.port for end in (one.laddr, one.raddr) if end}


def _row(one: psutil._common.sconn) -> tuple[str, str, str, str, str]:
    kind = "tcp" if one.type == socket.SOCK_STREAM else "udp"
    state = "" if one.status == psutil.CONN_NONE else one.status.lower()
    return kind, _end(one.laddr), _end(one.raddr), state, _process(one.pid)


def _end(end: tuple[str, int] | tuple[()]) -> str:
    if not end:
        return "-"
    address, port = end
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _process(pid: int | None) -> str:
    try:
        return f"{psutil.Process(pid).name()} ({pid})" if pid else "-"
    except psutil.Error:
        return str(pid)


OBSERVERS = {
    "net.interfaces": interfaces,
    "net.dns": dns,
    "net.ping": ping,
    "net.connections": connections,
}
PAIRS = {
    "net.interfaces": observing("net.interfaces", "ip address"),
    "net.dns": Pair(plan_dns),
    "net.ping": Pair(plan_ping),
    "net.connections": observing("net.connections", "ss --tcp --udp"),
}
