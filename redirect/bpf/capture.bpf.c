// SPDX-License-Identifier: MIT OR GPL-2.0
/* The kernel's half of the redirector `ebpf`: sends what chosen processes connect to to the engine.
 *
 * 1. A connect of a target is rewritten to the engine's listener on loopback, a datagram to a port
 *    of the engine that stands for its destination. getpeername, getsockname and the source of what
 *    is received are rewritten back. Nothing else of a program is touched.
 * 2. The listener's own filter (`gate`) reports a SYN and drops it; the engine completes the
 *    connection from its side, refuses it, or lets it time out.
 * 3. Who is a target: the nearest process of a line (itself, its parent, ...) that a rule names
 *    decides, and of the rules that name it the last one. User space has made them hash maps, since
 *    a loop over rules takes the verifier a third of a second.
 * 4. The engine is no target. Left alone are other network namespaces, loopback (but name servers
 *    there), multicast, sockets bound to a device, and answers to whoever was heard of first.
 * 5. Contexts are the kernel's stable interface (linux/bpf.h), so one object serves all kernels
 *    since 5.10; where the few fields of other structures are, `config` says, from the kernel's BTF.
 */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define LOW(x) __builtin_bswap32(x)
#define AF_INET 2
#define AF_INET6 10
#define TCP 6
#define UDP 17
#define MAPPED LOW(0xffff)
#define LOOPBACK LOW(0x7f000001)
#define DNS __builtin_bswap16(53)
#define LOOPBACK_DEVICE 1
#define ETH_P_IP __builtin_bswap16(0x0800)
#define SYN_ONLY(flags) (((flags) & 0x12) == 0x02)
#define ALL_OF_IT (-1)
#define ANCESTORS 16

static void *(*lookup)(void *, const void *) = (void *)BPF_FUNC_map_lookup_elem;
static long (*update)(void *, const void *, const void *, __u64) = (void *)BPF_FUNC_map_update_elem;
static long (*pop)(void *, void *) = (void *)BPF_FUNC_map_pop_elem;
static __u64 (*now)(void) = (void *)BPF_FUNC_ktime_get_ns;
static __u64 (*process_and_thread)(void) = (void *)BPF_FUNC_get_current_pid_tgid;
static __u64 (*current_task)(void) = (void *)BPF_FUNC_get_current_task;
static __u64 (*cookie_of)(void *) = (void *)BPF_FUNC_get_socket_cookie;
static __u64 (*namespace_of)(void *) = (void *)BPF_FUNC_get_netns_cookie;
static long (*read)(void *, __u32, __u64) = (void *)BPF_FUNC_probe_read_kernel;
static long (*read_text)(void *, __u32, __u64) = (void *)BPF_FUNC_probe_read_kernel_str;
static long (*load)(void *, __u32, void *, __u32) = (void *)BPF_FUNC_skb_load_bytes;
static long (*load_from)(void *, __u32, void *, __u32, __u32) = (void *)BPF_FUNC_skb_load_bytes_relative;
static long (*tell)(void *, void *, __u64, __u64) = (void *)BPF_FUNC_ringbuf_output;

// ebpf_records.py has the same layouts.
struct address {
	__u32 ip[4]; // IPv4 as ::ffff:a.b.c.d
	__u16 port;  // as on the wire
	__u16 protocol;
};
struct route {
	struct address server;
	__u32 process;
};
struct arrival {
	struct address client;
	struct route to;
	__u32 sequence;
};
struct path {
	struct address server;
	__u32 process;
	__u64 used;
};
struct heard {
	__u64 socket;
	struct address from;
	__u32 unused;
};
struct name {
	char text[64];
};
enum { CAPTURE_REST = 1, CAPTURE_LOOPBACK = 2, NAMES = 4 };
struct config {
	__u64 network; // cookie of the engine's network namespace, 0: unknown
	__u32 engine;  // its process
	__u32 flags;
	__u32 stream_port[2]; // of IPv4 and IPv6, as on the wire
	__u32 lost_port[2];   // of the socket that swallows datagrams when no path is free
	__u32 source[2][4];   // what getsockname shows
	struct {
		__u32 group_leader, tgid, real_parent, comm, mm; // of task_struct
		__u32 exe_file, dentry, name;                    // of mm_struct, file, dentry
	} at;
};

struct definition {
	__u32 type, key, value, entries;
};
#define MAP(name, type, key, value, entries) \
	struct definition name SEC("maps") = {BPF_MAP_TYPE_##type, key, value, entries}

MAP(configs, ARRAY, sizeof(__u32), sizeof(struct config), 1);
MAP(names, HASH, sizeof(struct name), sizeof(__u32), 1024);
MAP(members, HASH, sizeof(__u32), sizeof(__u32), 32768);
MAP(routes, LRU_HASH, sizeof(__u64), sizeof(struct route), 8192);            // by the socket's cookie
MAP(clients, LRU_HASH, sizeof(struct address), sizeof(struct route), 8192); // by its address
MAP(paths, HASH, sizeof(struct address), sizeof(__u32), 4096);
MAP(servers, HASH, sizeof(__u32), sizeof(struct path), 4096); // by the path's `place`
MAP(heard_of, LRU_HASH, sizeof(struct heard), sizeof(__u32), 8192);
MAP(free_ports_v4, QUEUE, 0, sizeof(__u32), 4096);
MAP(free_ports_v6, QUEUE, 0, sizeof(__u32), 4096);
MAP(arrivals, RINGBUF, 0, 0, 1 << 18);

INLINE struct config *configuration(void)
{
	__u32 first = 0;
	return lookup(&configs, &first);
}

INLINE int is_mapped(const __u32 *ip) { return !ip[0] && !ip[1] && ip[2] == MAPPED; }

// "No address" means this machine, too (connect to 0.0.0.0 or ::).
INLINE int is_loopback(const __u32 *ip)
{
	if (is_mapped(ip))
		return (ip[3] & LOW(0xff000000)) == LOW(0x7f000000) || !ip[3];
	return !ip[0] && !ip[1] && !ip[2] && (ip[3] == LOW(1) || !ip[3]);
}

INLINE int is_many(const __u32 *ip)
{
	if (is_mapped(ip))
		return (ip[3] & LOW(0xf0000000)) == LOW(0xe0000000) || ip[3] == 0xffffffff;
	return (ip[0] & LOW(0xff000000)) == LOW(0xff000000);
}

// ── who is a target ─────────────────────────────────────────────────────────────────────────────

INLINE void later(__u32 *best, void *map, const void *key)
{
	__u32 *found = lookup(map, key);
	if (found && *found > *best)
		*best = *found;
}

// The name of a program's file, which the program cannot change, unlike the process's own.
INLINE int file_name(struct config *c, __u64 leader, struct name *name)
{
	__u64 at = 0;
	if (read(&at, 8, leader + c->at.mm) || !at || read(&at, 8, at + c->at.exe_file) || !at ||
	    read(&at, 8, at + c->at.dentry) || !at || read(&at, 8, at + c->at.name) || !at)
		return 0;
	return read_text(name->text, sizeof(name->text), at) > 0;
}

// A rule's value is twice its rank, plus one for a rule that excludes; 0 when none names the process.
INLINE __u32 rule_for(struct config *c, __u64 leader, __u32 process)
{
	__u32 best = 0;
	later(&best, &members, &process);
	if (c->flags & NAMES) {
		struct name name = {}, file = {};
		if (read_text(name.text, 16, leader + c->at.comm) > 0)
			later(&best, &names, &name);
		if (file_name(c, leader, &file))
			later(&best, &names, &file);
	}
	return best;
}

INLINE int is_target(struct config *c)
{
	__u64 task = current_task(), leader = 0;
	for (int i = 0; i < ANCESTORS; i++) {
		__u32 process = 0;
		if (read(&leader, 8, task + c->at.group_leader) || read(&process, 4, leader + c->at.tgid))
			break;
		__u32 rule = rule_for(c, leader, process);
		if (rule)
			return !(rule & 1);
		if (process <= 1 || read(&task, 8, leader + c->at.real_parent) || !task)
			break;
	}
	return c->flags & CAPTURE_REST;
}

// ── where to ────────────────────────────────────────────────────────────────────────────────────

INLINE int was_heard_of(struct bpf_sock_addr *ctx, const struct address *server)
{
	struct heard from = {};
	from.socket = cookie_of(ctx);
	from.from = *server;
	return lookup(&heard_of, &from) != 0;
}

INLINE struct config *captured(struct bpf_sock_addr *ctx, struct address *server, __u32 *process)
{
	struct config *c = configuration();
	server->protocol = ctx->protocol;
	if (!c || !c->stream_port[0] || (server->protocol != TCP && server->protocol != UDP))
		return 0; // not ours, or the engine is not ready
	*process = process_and_thread() >> 32;
	if (*process == c->engine || (c->network && namespace_of(ctx) != c->network))
		return 0;
	if (is_many(server->ip) || !server->port)
		return 0;
	if (is_loopback(server->ip) && !(c->flags & CAPTURE_LOOPBACK) && server->port != DNS)
		return 0;
	struct bpf_sock *sock = ctx->sk;
	if (sock && sock->bound_dev_if && sock->bound_dev_if != LOOPBACK_DEVICE)
		return 0;
	if (!is_target(c))
		return 0;
	return server->protocol == UDP && was_heard_of(ctx, server) ? 0 : c;
}

#define PLACE(port, six) ((port) | (__u32)!!(six) << 16)

// The port that stands for a destination, or that of the socket that swallows what has no path.
INLINE __u32 path_to(struct config *c, const struct address *server, __u32 process, int six)
{
	__u32 *known = lookup(&paths, server), port = 0;
	if (known) {
		__u32 place = PLACE(*known, six);
		struct path *path = lookup(&servers, &place);
		if (path)
			path->used = now();
		return *known;
	}
	if (six ? pop(&free_ports_v6, &port) : pop(&free_ports_v4, &port))
		return six ? c->lost_port[1] : c->lost_port[0];
	struct path path = {};
	path.server = *server;
	path.process = process;
	path.used = now();
	__u32 place = PLACE(port, six);
	update(&servers, &place, &path, 0);
	update(&paths, server, &port, 0);
	tell(&arrivals, &place, sizeof(place), 0); // the engine makes another
	return port;
}

// Returns the port to go to instead (as on the wire), 0 to leave the call alone.
INLINE __u32 divert(struct bpf_sock_addr *ctx, struct address *server)
{
	struct route route = {};
	__u32 process = 0;
	int six = !is_mapped(server->ip);
	struct config *c = captured(ctx, server, &process);
	if (!c)
		return 0;
	__u64 cookie = cookie_of(ctx);
	route.server = *server;
	route.process = process;
	update(&routes, &cookie, &route, 0);
	if (server->protocol == UDP)
		return path_to(c, server, process, six);
	return six ? c->stream_port[1] : c->stream_port[0];
}

INLINE int divert_v4(struct bpf_sock_addr *ctx)
{
	struct address server = {.ip = {0, 0, MAPPED, ctx->user_ip4}, .port = ctx->user_port};
	__u32 port = divert(ctx, &server);
	if (port) {
		ctx->user_ip4 = LOOPBACK;
		ctx->user_port = port;
	}
	return 1;
}

INLINE int divert_v6(struct bpf_sock_addr *ctx)
{
	struct address server = {.port = ctx->user_port};
	server.ip[0] = ctx->user_ip6[0];
	server.ip[1] = ctx->user_ip6[1];
	server.ip[2] = ctx->user_ip6[2];
	server.ip[3] = ctx->user_ip6[3];
	__u32 port = divert(ctx, &server);
	if (!port)
		return 1;
	if (is_mapped(server.ip)) {
		ctx->user_ip6[3] = LOOPBACK;
	} else {
		ctx->user_ip6[0] = ctx->user_ip6[1] = ctx->user_ip6[2] = 0;
		ctx->user_ip6[3] = LOW(1);
	}
	ctx->user_port = port;
	return 1;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx) { return divert_v4(ctx); }
SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx) { return divert_v6(ctx); }
SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *ctx) { return divert_v4(ctx); }
SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *ctx) { return divert_v6(ctx); }

// ── what the program sees ───────────────────────────────────────────────────────────────────────

INLINE void show_v4(struct bpf_sock_addr *ctx, const struct address *shown)
{
	ctx->user_ip4 = shown->ip[3];
	ctx->user_port = shown->port;
}

INLINE void show_v6(struct bpf_sock_addr *ctx, const struct address *shown)
{
	ctx->user_ip6[0] = shown->ip[0];
	ctx->user_ip6[1] = shown->ip[1];
	ctx->user_ip6[2] = shown->ip[2];
	ctx->user_ip6[3] = shown->ip[3];
	ctx->user_port = shown->port;
}

INLINE void seen_v4(struct bpf_sock_addr *ctx, struct address *seen)
{
	seen->ip[2] = MAPPED;
	seen->ip[3] = ctx->user_ip4;
	seen->port = ctx->user_port;
	seen->protocol = ctx->protocol;
}

INLINE void seen_v6(struct bpf_sock_addr *ctx, struct address *seen)
{
	seen->ip[0] = ctx->user_ip6[0];
	seen->ip[1] = ctx->user_ip6[1];
	seen->ip[2] = ctx->user_ip6[2];
	seen->ip[3] = ctx->user_ip6[3];
	seen->port = ctx->user_port;
	seen->protocol = ctx->protocol;
}

// The server for which one of our addresses stands, if this is one.
INLINE struct address *server_behind(const struct address *seen)
{
	if (!is_loopback(seen->ip))
		return 0;
	__u32 place = PLACE(seen->port, !is_mapped(seen->ip));
	struct path *path = lookup(&servers, &place);
	return path ? &path->server : 0;
}

INLINE struct address *peer(struct bpf_sock_addr *ctx, const struct address *seen)
{
	if (seen->protocol == UDP)
		return server_behind(seen);
	struct config *c = configuration();
	int six = !is_mapped(seen->ip);
	__u64 cookie = cookie_of(ctx);
	if (!c || !is_loopback(seen->ip) || seen->port != (six ? c->stream_port[1] : c->stream_port[0]))
		return 0;
	struct route *route = lookup(&routes, &cookie);
	return route ? &route->server : 0;
}

// A datagram from somebody else: answers to it are a server's, and not to be diverted.
INLINE void hear(struct bpf_sock_addr *ctx, const struct address *seen)
{
	struct heard from = {};
	__u32 yes = 1;
	from.socket = cookie_of(ctx);
	from.from = *seen;
	if (seen->protocol == UDP && !is_loopback(seen->ip) && !lookup(&heard_of, &from))
		update(&heard_of, &from, &yes, 0);
}

SEC("cgroup/recvmsg4") int recvmsg4(struct bpf_sock_addr *ctx)
{
	struct address seen = {};
	seen_v4(ctx, &seen);
	struct address *server = server_behind(&seen);
	if (server)
		show_v4(ctx, server);
	else
		hear(ctx, &seen);
	return 1;
}

SEC("cgroup/recvmsg6") int recvmsg6(struct bpf_sock_addr *ctx)
{
	struct address seen = {};
	seen_v6(ctx, &seen);
	struct address *server = server_behind(&seen);
	if (server)
		show_v6(ctx, server);
	else
		hear(ctx, &seen);
	return 1;
}

SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx)
{
	struct address seen = {};
	seen_v4(ctx, &seen);
	struct address *server = peer(ctx, &seen);
	if (server)
		show_v4(ctx, server);
	return 1;
}

SEC("cgroup/getpeername6") int getpeername6(struct bpf_sock_addr *ctx)
{
	struct address seen = {};
	seen_v6(ctx, &seen);
	struct address *server = peer(ctx, &seen);
	if (server)
		show_v6(ctx, server);
	return 1;
}

// Programs learn this machine's address by connecting and asking for their own.
INLINE struct config *is_diverted(struct bpf_sock_addr *ctx, const struct address *seen, int six)
{
	struct config *c = configuration();
	__u64 cookie = cookie_of(ctx);
	if (!c || !is_loopback(seen->ip) || !lookup(&routes, &cookie))
		return 0;
	return (six ? c->source[1][0] : c->source[0][3]) ? c : 0;
}

SEC("cgroup/getsockname4") int getsockname4(struct bpf_sock_addr *ctx)
{
	struct address seen = {};
	seen_v4(ctx, &seen);
	struct config *c = is_diverted(ctx, &seen, 0);
	if (c)
		ctx->user_ip4 = c->source[0][3];
	return 1;
}

SEC("cgroup/getsockname6") int getsockname6(struct bpf_sock_addr *ctx)
{
	struct address seen = {};
	seen_v6(ctx, &seen);
	if (is_mapped(seen.ip)) {
		struct config *c = is_diverted(ctx, &seen, 0);
		if (c)
			ctx->user_ip6[3] = c->source[0][3];
		return 1;
	}
	struct config *c = is_diverted(ctx, &seen, 1);
	if (c) {
		ctx->user_ip6[0] = c->source[1][0];
		ctx->user_ip6[1] = c->source[1][1];
		ctx->user_ip6[2] = c->source[1][2];
		ctx->user_ip6[3] = c->source[1][3];
	}
	return 1;
}

// ── streams ─────────────────────────────────────────────────────────────────────────────────────

// The socket has its port, and the SYN is not sent yet.
SEC("sockops") int connecting(struct bpf_sock_ops *ctx)
{
	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return 1;
	__u64 cookie = cookie_of(ctx);
	struct route *route = lookup(&routes, &cookie);
	if (!route)
		return 1;
	// All loads before any choice: of merged ones the verifier says "dereference of modified ctx ptr".
	__u32 v4 = ctx->local_ip4, a = ctx->local_ip6[0], b = ctx->local_ip6[1], c = ctx->local_ip6[2], d = ctx->local_ip6[3];
	__u32 family = ctx->family, port = ctx->local_port;
	asm volatile("" : "+r"(v4), "+r"(a), "+r"(b), "+r"(c), "+r"(d));
	struct address client = {.port = __builtin_bswap16(port), .protocol = TCP};
	client.ip[0] = family == AF_INET6 ? a : 0;
	client.ip[1] = family == AF_INET6 ? b : 0;
	client.ip[2] = family == AF_INET6 ? c : MAPPED;
	client.ip[3] = family == AF_INET6 ? d : v4;
	update(&clients, &client, route, 0);
	return 1;
}

SEC("socket") int gate(struct __sk_buff *skb)
{
	struct arrival arrival = {.client.protocol = TCP};
	__u8 flags = 0;
	if (load(skb, 13, &flags, 1) || !SYN_ONLY(flags))
		return ALL_OF_IT;
	load(skb, 0, &arrival.client.port, 2);
	load(skb, 4, &arrival.sequence, 4);
	if (skb->protocol == ETH_P_IP) {
		arrival.client.ip[2] = MAPPED;
		load_from(skb, 12, &arrival.client.ip[3], 4, BPF_HDR_START_NET);
	} else {
		load_from(skb, 8, arrival.client.ip, 16, BPF_HDR_START_NET);
	}
	struct route *route = lookup(&clients, &arrival.client);
	if (!route) // nobody whom we have diverted: the engine turns it away
		return ALL_OF_IT;
	arrival.to = *route;
	tell(&arrivals, &arrival, sizeof(arrival), 0); // lost when full: the SYN comes again
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
