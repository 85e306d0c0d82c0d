#!/bin/sh
# The routes that announce = "transparent" needs: what the mail server sends to clients has to come back to gatepost, and
# gatepost's host has to take it for its own. Run it as root at each start of the system; docs/operations.md, "Transparent
# source", says where and how, and what each of the three layouts is for.
#
#   transparent-routes.sh gate INTERFACE...    on gatepost's host: the interfaces that lead to mail servers
#   transparent-routes.sh mta GATE [PORT]      on a Linux mail server that has another default gateway: gatepost's address
#                                              on their common network; once for IPv4 and once for IPv6
#   transparent-routes.sh loopback             where the mail server is on gatepost's own host, at 127.0.0.1 or ::1
#   transparent-routes.sh undo                 takes back whatever one of these has set up here, but for the sysctls
#
# Each may be run again. Needs Linux 5.10, iproute2, and for `gate` nftables 0.9.8.
set -eu

# One bit of the mark, so that what others do with the rest of it goes on.
mark=0x1000000/0x1000000
table=2525
priority=2525
filter=gatepost_transparent

usage() {
    sed -n 's/^#   //p' "$0" >&2
    exit 64
}

# forget FAMILY: our rules and routes of that family, as often as they are there.
forget() {
    while ip "$1" rule del priority $priority 2>/dev/null; do :; done
    ip "$1" route flush table $table 2>/dev/null || true
}

# families: those that this host speaks.
families() {
    echo -4
    [ ! -e /proc/sys/net/ipv6 ] || echo -6
}

# everything FAMILY: whatever is looked up in our table is taken for this host's own.
everything_is_ours() {
    case $1 in
    -4) ip -4 route replace local 0.0.0.0/0 dev lo table $table ;;
    -6) ip -6 route replace local ::/0 dev lo table $table ;;
    esac
}

# Answers to connections that gatepost has made from clients' addresses get a mark, and marked packets are ours.
gate() {
    [ $# -gt 0 ] || usage
    for family in $(families); do
        forget "$family"
        ip "$family" rule add fwmark $mark lookup $table priority $priority
        everything_is_ours "$family"
    done
    nft -f - <<END
table inet $filter
delete table inet $filter
table inet $filter {
    chain divert {
        type filter hook prerouting priority mangle; policy accept;
        iifname { $(printf '"%s", ' "$@") } meta l4proto tcp socket transparent 1 meta mark set meta mark | ${mark%/*}
    }
}
END
    # Where the mail server's way to the Internet leads in and out by one interface, the kernel would tell it of a shorter
    # one, which passes gatepost by. The larger of the two settings counts.
    for name in all "$@"; do
        sysctl -qw "net/ipv4/conf/$name/send_redirects=0"
    done
}

# What the mail server sends from its port goes to gatepost, wherever it is bound for.
mta() {
    [ $# -ge 1 ] && [ $# -le 2 ] || usage
    case $1 in
    *:*) family=-6 ;;
    *) family=-4 ;;
    esac
    forget $family
    ip $family rule add ipproto tcp sport "${2:-25}" lookup $table priority $priority
    ip $family route replace default via "$1" table $table
}

# What leaves from a loopback address for anywhere else is for gatepost, which is here too: it would go nowhere otherwise.
loopback() {
    for family in $(families); do
        forget "$family"
        case $family in
        -4) ip -4 rule add from 127.0.0.0/8 iif lo lookup $table priority $priority ;;
        -6) ip -6 rule add from ::1/128 iif lo lookup $table priority $priority ;;
        esac
        everything_is_ours "$family"
    done
}

undo() {
    for family in $(families); do
        forget "$family"
    done
    ! command -v nft >/dev/null || nft delete table inet $filter 2>/dev/null || true
}

[ $# -gt 0 ] || usage
task=$1
shift
case $task in
gate) gate "$@" ;;
mta) mta "$@" ;;
loopback) loopback ;;
undo) undo ;;
*) usage ;;
esac
