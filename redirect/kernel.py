"""The kernel's numbers, in one place, each named as in its header.

1. Only what Python's `socket` module does not name on every supported version (3.10 and later).
2. Values that two sides must share (our packet marks, the listener's address) live here too.
"""

from __future__ import annotations

import struct

# include/uapi/linux/netlink.h
NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4
NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_NO_ENOBUFS = 5
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_ROOT_MATCH = 0x300
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLMSG_HEADER = struct.Struct("=IHHII")
NLA_HEADER = struct.Struct("=HH")
NLA_TYPE_MASK = 0x3FFF

# include/uapi/linux/netfilter/nfnetlink.h
NFNL_SUBSYS_QUEUE = 3
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN = 0x10
NFNL_MSG_BATCH_END = 0x11

# include/uapi/linux/netfilter.h and netfilter_ipv4.h
NFPROTO_INET = 1
NFPROTO_IPV4 = 2
NFPROTO_IPV6 = 10
NF_DROP = 0
NF_ACCEPT = 1
NF_INET_PRE_ROUTING = 0
NF_INET_LOCAL_OUT = 3
NF_IP_PRI_MANGLE = -150

# include/uapi/linux/netfilter/nfnetlink_queue.h
NFQNL_MSG_PACKET = 0
NFQNL_MSG_VERDICT = 1
NFQNL_MSG_CONFIG = 2
NFQA_PACKET_HDR = 1
NFQA_VERDICT_HDR = 2
NFQA_MARK = 3
NFQA_PAYLOAD = 10
NFQA_CFG_CMD = 1
NFQA_CFG_PARAMS = 2
NFQA_CFG_QUEUE_MAXLEN = 3
NFQA_CFG_MASK = 4
NFQA_CFG_FLAGS = 5
NFQNL_CFG_CMD_BIND = 1
NFQNL_COPY_PACKET = 2
NFQA_CFG_F_FAIL_OPEN = 1

# include/uapi/linux/netfilter/xt_NFQUEUE.h
NFQ_FLAG_BYPASS = 1

# include/uapi/linux/in.h, in6.h, asm-generic/socket.h
IP_TRANSPARENT = 19
IP_RECVORIGDSTADDR = 20
IP_PKTINFO = 8
IPV6_CHECKSUM = 7
IPV6_PKTINFO = 50
IPV6_RECVORIGDSTADDR = 74
IPV6_TRANSPARENT = 75
SO_RCVBUFFORCE = 33
SO_MARK = 36

# include/uapi/linux/sock_diag.h, inet_diag.h
SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21
INET_DIAG_MARK = 15
TCP_TIME_WAIT = 6
TCP_CLOSE = 7
TCP_LISTEN = 10
TCP_ALL_STATES = 0xFFF

# include/uapi/linux/if_addr.h, if_link.h, rtnetlink.h, fib_rules.h, if.h
FRA_DST = 1
FRA_IIFNAME = 3
FRA_FWMARK = 10
FRA_FWMASK = 16
IFA_F_NODAD = 0x02
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40
IFA_ADDRESS = 1
IFA_LOCAL = 2
IFF_UP = 0x1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_TXQLEN = 13
IFLA_AF_SPEC = 26
IFLA_INET_CONF = 1
IFLA_LINKINFO = 18
IFLA_INFO_KIND = 1
FRA_PRIORITY = 6
FRA_IP_PROTO = 22
FR_ACT_TO_TBL = 1
FR_ACT_UNREACHABLE = 7
RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255
RTN_UNICAST = 1
RTN_LOCAL = 2
RTN_THROW = 9
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PREFSRC = 7
RTPROT_STATIC = 4
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RT_SCOPE_HOST = 254
RTM_NEWLINK = 16
RTM_NEWADDR = 20
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_NEWRULE = 32
RTM_DELRULE = 33
LOOPBACK_INDEX = 1

# include/uapi/linux/ip.h
IPV4_DEVCONF_RP_FILTER = 8
IPV4_DEVCONF_ACCEPT_LOCAL = 23
IPV4_DEVCONF_ROUTE_LOCALNET = 26

# include/uapi/linux/if_tun.h, virtio_net.h
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETIFINDEX = 0x400454DA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 0x01, 0x02, 0x04
TUN_F_USO4, TUN_F_USO6 = 0x20, 0x40

# include/uapi/linux/if_packet.h
SOL_PACKET = 263
PACKET_VNET_HDR = 15

# include/uapi/linux/sched.h
CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000

# Ours.
ENGINE_MARK = 0x6E6574CA
"""SO_MARK of every socket that the engine makes inside a namespace: neither gated nor captured."""

QUEUE_NUMBER = 7
CAPTURE_TABLE = 100
"""The routing table in which every address is local."""

LINK_INDEX = 27
"""Of eth0, which leads nowhere: an index that no fallback tunnel device has taken."""

OWN_V4 = "192.0.0.8"
OWN_V6 = "2001:2:0:6e63::1"
GATEWAY_V4 = "192.0.0.254"
GATEWAY_V6 = "2001:2:0:6e63::fffe"
RESOLVER_V4 = "192.0.2.53"
"""The name server of `resolv.conf` (`sandbox/resolver.py`)."""

LISTENER_V4 = ("127.255.255.254", 65027)
LISTENER_V6 = ("100::1", 65027)
"""Where the transparent sockets are bound: what nobody dials (100::/64 is discard-only, RFC 6666),
on a port that is neither privileged (/proc/sys may be read-only) nor ephemeral."""
