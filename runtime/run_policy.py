"""Which channels of a program under `zerohop run` may leave grpcio, and telling people about it."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import os

import grpc
from zerohop import log
from zerohop._native import __version__
from zerohop.address import Target, normalize_ip
from zerohop.options import ChannelArguments, Options, parse

_log = log.logger("run")

# What grpcio takes where the program does not say: GRPC_DEFAULT_MAX_RECV_MESSAGE_LENGTH.
MAX_RECEIVE = 4 << 20
_MAX_RECEIVE_OPTION = "grpc.max_receive_message_length"

# Options that change nothing that can be seen on shared memory, or that we honour. With any other
# of grpcio's a channel stays on grpcio: what it asks for would not happen.
_HARMLESS = frozenset(
    {
        _MAX_RECEIVE_OPTION,
        "grpc.max_send_message_length",
        "grpc.max_concurrent_streams",
        "grpc.primary_user_agent",
        "grpc.secondary_user_agent",
        "grpc.enable_retries",  # without a service config there is nothing to retry
        "grpc.min_reconnect_backoff_ms",
        "grpc.max_reconnect_backoff_ms",
        "grpc.initial_reconnect_backoff_ms",
        "grpc.client_idle_timeout_ms",
        "grpc.use_local_subchannel_pool",
        "grpc.per_rpc_retry_buffer_size",
        "grpc.enable_channelz",
        "grpc.max_channel_trace_event_memory_per_node",
        "grpc.optimization_target",
        "grpc.enable_http_proxy",
        "grpc.enable_deadline_checking",
        "grpc.default_compression_algorithm",
        "grpc.default_compression_level",
        "grpc.compression_enabled_algorithms_bitset",
        "grpc.minimal_stack",
    }
)
_HARMLESS_PREFIXES = ("grpc.keepalive_", "grpc.http2.", "grpc.dns_", "grpc.tcp_", "grpc.so_")


def with_defaults(options: ChannelArguments | None) -> ChannelArguments:
    """A program's options, with grpcio's defaults where they differ from ours."""
    given = list(options or ())
    if not any(name == _MAX_RECEIVE_OPTION for name, _ in given):
        given.append((_MAX_RECEIVE_OPTION, MAX_RECEIVE))
    return given


def run_options(options: ChannelArguments | None) -> Options:
    """What the short way honours of a channel's options."""
    parsed = parse(with_defaults(options))
    agent = parsed.user_agent.replace(
        f"zerohop/{__version__}", f"grpc-python/{grpc.__version__} zerohop/{__version__}"
    )
    return dataclasses.replace(parsed, user_agent=agent[:255])


def why_grpcio(target: Target, options: ChannelArguments | None) -> str:
    """Why a channel must stay on grpcio, whatever the registry holds; "" if it need not."""
    if target.kind == "other":
        return "zerohop does not know this kind of target"
    if target.authority:
        return "its target names a DNS server of its own"
    given: dict[str, object] = {}
    for name, value in options or ():
        given[name] = value
        ours = not isinstance(name, str) or not name.startswith("grpc.")
        if not ours and name not in _HARMLESS and not name.startswith(_HARMLESS_PREFIXES):
            return f"its option {name}"
        if not isinstance(value, int | str | bytes):
            return f"the value of its option {name}"
    try:
        run_options(options)
    except ValueError as error:
        return f"its options: {error}"
    proxy = _proxy(target) if given.get("grpc.enable_http_proxy", 1) else ""
    return f"the proxy in {proxy}" if proxy else ""


def _proxy(target: Target) -> str:
    """The environment variable with the proxy that grpcio would take for a target, or ""."""
    if target.kind != "dns":
        return ""
    found = next((n for n in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(n)), "")
    if not found:
        return ""
    without = next((os.environ[n] for n in ("no_grpc_proxy", "no_proxy") if os.environ.get(n)), "")
    excluded = (item.strip() for item in without.split(","))
    return "" if any(_excludes(item, target.host) for item in excluded if item) else found


def _excludes(item: str, host: str) -> bool:
    ip = normalize_ip(host)
    if ip is not None:
        try:
            return ipaddress.ip_address(ip) in ipaddress.ip_network(item, strict=False)
        except ValueError:
            pass
    return host.lower().endswith(item.lower())


# --- telling ----------------------------------------------------------------------------------


def configure() -> None:
    """Honour ZEROHOP_EXPLAIN: what goes which way, on standard error."""
    if os.environ.get("ZEROHOP_EXPLAIN", "") in ("", "0") or _log.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("zerohop[%(process)d]: %(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False


def explaining() -> bool:
    """Does anybody want to know? Finding out why costs a look into the registry.

    Only who asks (ZEROHOP_EXPLAIN, ZEROHOP_LOG): a program's own log stays as it is without us.
    """
    asked = _log.level or logging.getLogger(log.ROOT).level
    return bool(asked) and _log.isEnabledFor(logging.INFO)


def explain(what: str, way: str, why: str) -> None:
    """One line for a person who asks which way something goes, and why."""
    if explaining():
        _log.info("%s: %s%s", what, way, f" ({why})" if why else "")
