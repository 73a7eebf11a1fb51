//! smoltcp for any number of connections, to whatever address. No sockets, no clock, no I/O.
//!
//! 1. smoltcp walks its `SocketSet` for every packet. So each connection has a set of its own, on one shared
//!    `Interface`, and is found by its addresses here: a packet costs the same with 3,000 others idle.
//! 2. A SYN is held until `accept` or one of the refusals; the same SYN again is not asked about again,
//!    but told again that its host is unreachable.
//! 3. UDP has no state here: a datagram is an event.
//! 4. A connection is forgotten when it enters TIME_WAIT, whose 10 s would keep both buffers.

use std::collections::{BTreeSet, HashMap, VecDeque};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address, Ipv6Address};

use crate::packet::{self, Key, Unreachable, parse};

const LONGEST: usize = 65_535;
const KEPT: usize = 32;
const ANSWERED_FOR: i64 = 130_000_000;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub mtu: usize,
    /// The device takes segments of up to 64 KiB and fills checksums in.
    pub offload: bool,
    /// Bytes of each connection's two buffers.
    pub buffer: usize,
    pub seed: u64,
}

/// A packet to the client. `segment`: to be cut into pieces of that payload. `partial`: without checksum.
pub struct Frame {
    pub data: Vec<u8>,
    pub segment: Option<u16>,
    pub partial: bool,
}

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Connecting { flow: u64, key: Key },
    Datagram { key: Key, payload: Vec<u8> },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    Reset,
    Silence,
    Unreachable,
}

/// What smoltcp sees as its device, for one call.
struct Port<'a> {
    input: Option<&'a [u8]>,
    out: &'a mut Outbox,
    capabilities: &'a DeviceCapabilities,
}

struct Input<'a>(&'a [u8]);

impl RxToken for Input<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

struct Output<'a>(&'a mut Outbox, PacketMeta);

impl TxToken for Output<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut data = self.0.buffer(length);
        let result = write(&mut data);
        let segment = self.1.segmentation_offload_size.map(std::num::NonZero::get);
        self.0.push(data, segment);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.1 = meta;
    }
}

impl Device for Port<'_> {
    type RxToken<'b>
        = Input<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Output<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Input<'_>, Output<'_>)> {
        let input = self.input.take()?;
        Some((Input(input), Output(self.out, PacketMeta::default())))
    }

    fn transmit(&mut self, _: Instant) -> Option<Output<'_>> {
        Some(Output(self.out, PacketMeta::default()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// Packets to the client, in order. Their buffers are used again.
#[derive(Default)]
pub struct Outbox {
    frames: VecDeque<Frame>,
    spare: Vec<Vec<u8>>,
    offload: bool,
}

impl Outbox {
    fn buffer(&mut self, length: usize) -> Vec<u8> {
        let mut data = self.spare.pop().unwrap_or_default();
        data.resize(length, 0);
        data
    }

    fn push(&mut self, data: Vec<u8>, segment: Option<u16>) {
        let tcp = parse(&data).is_some_and(|header| header.key.protocol == packet::TCP);
        self.frames.push_back(Frame { data, segment, partial: self.offload && tcp });
    }

    /// Adds a packet that is complete.
    pub fn put(&mut self, data: Vec<u8>) {
        self.frames.push_back(Frame { data, segment: None, partial: false });
    }

    pub fn pop(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    /// Gives a frame's buffer back.
    pub fn recycle(&mut self, data: Vec<u8>) {
        if self.spare.len() < KEPT {
            self.spare.push(data);
        }
    }
}

struct Live {
    set: SocketSet<'static>,
    handle: SocketHandle,
    timer: Option<i64>,
}

enum State {
    Held(Vec<u8>),
    Answered(Refusal),
    Live(Box<Live>),
}

struct Flow {
    id: u64,
    key: Key,
    sequence: u32,
    state: State,
    touched: bool,
}

/// How a connection stands; see `Stack::standing`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Standing {
    pub established: bool,
    /// The client has ended its side, and all that it sent was read.
    pub ended: bool,
    /// The client has reset it.
    pub reset: bool,
    /// Nothing more can happen on it.
    pub over: bool,
}

pub struct Stack {
    options: Options,
    interface: Interface,
    capabilities: DeviceCapabilities,
    pub out: Outbox,
    none: SocketSet<'static>,
    flows: Vec<Option<Flow>>,
    free: Vec<u32>,
    made: u32,
    by_key: HashMap<Key, u32>,
    by_syn: HashMap<(Key, u32), u32>,
    timers: BTreeSet<(i64, u32)>,
    answered: VecDeque<(i64, u64)>,
    touched: Vec<u32>,
    pub events: VecDeque<Event>,
}

fn instant(now: i64) -> Instant {
    Instant::from_micros(now)
}

fn capabilities(options: &Options) -> DeviceCapabilities {
    let mut made = DeviceCapabilities::default();
    made.medium = Medium::Ip;
    made.max_transmission_unit = options.mtu;
    if options.offload {
        // smoltcp 0.14 drops segments of IPv6 that are longer than the MTU, whoever is to cut them. How long
        // the pieces are is what the client says it takes.
        made.max_transmission_unit = LONGEST;
        made.checksum.tcp = Checksum::None;
        made.segmentation.tcpv4 = std::num::NonZero::new(LONGEST);
        made.segmentation.tcpv6 = std::num::NonZero::new(LONGEST);
    }
    made
}

impl Stack {
    pub fn new(options: Options) -> Stack {
        let capabilities = capabilities(&options);
        let mut out = Outbox { offload: options.offload, ..Outbox::default() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = options.seed;
        let mut port = Port { input: None, out: &mut out, capabilities: &capabilities };
        let mut interface = Interface::new(config, &mut port, instant(0));
        let (v4, v6) = (Ipv4Address::new(0, 0, 0, 1), Ipv6Address::LOCALHOST);
        interface.set_any_ip(true); // with the two routes: every address is ours
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(v4), 0));
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv6(v6), 0));
        });
        let _ = interface.routes_mut().add_default_ipv4_route(v4);
        let _ = interface.routes_mut().add_default_ipv6_route(v6);
        Stack {
            options,
            interface,
            capabilities,
            out,
            none: SocketSet::new(Vec::new()),
            flows: Vec::new(),
            free: Vec::new(),
            made: 0,
            by_key: HashMap::new(),
            by_syn: HashMap::new(),
            timers: BTreeSet::new(),
            answered: VecDeque::new(),
            touched: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Whether a packet, with the number of the SYN if it is one, belongs to what is captured.
    pub fn has(&self, key: &Key, syn: Option<u32>) -> bool {
        self.by_key.contains_key(key) || syn.is_some_and(|n| self.by_syn.contains_key(&(*key, n)))
    }

    /// How many connections are open.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The place of a flow, unless it has gone.
    pub fn find(&self, id: u64) -> Option<u32> {
        let at = id as u32;
        let flow = self.flows.get(at as usize)?.as_ref()?;
        (flow.id == id).then_some(at)
    }

    pub fn id(&self, at: u32) -> Option<u64> {
        self.flow(at).map(|flow| flow.id)
    }

    pub fn key(&self, at: u32) -> Option<Key> {
        self.flow(at).map(|flow| flow.key)
    }

    fn flow(&self, at: u32) -> Option<&Flow> {
        self.flows.get(at as usize)?.as_ref()
    }

    fn flow_mut(&mut self, at: u32) -> Option<&mut Flow> {
        self.flows.get_mut(at as usize)?.as_mut()
    }

    /// A packet from the client, whole. `segment`: it is that many bytes of UDP a datagram.
    pub fn ingress(&mut self, now: i64, data: &[u8], segment: usize) {
        let Some(header) = parse(data) else { return };
        match header.key.protocol {
            packet::TCP => self.ingress_tcp(now, data, &header.key, header.syn),
            packet::UDP if header.end >= header.body + 8 => {
                let body = &data[header.body + 8..header.end];
                let size = if segment > 0 { segment } else { body.len().max(1) };
                let mut add = |payload: &[u8]| {
                    let payload = payload.to_vec();
                    self.events.push_back(Event::Datagram { key: header.key, payload });
                };
                if body.is_empty() {
                    add(body);
                }
                body.chunks(size).for_each(add);
            }
            packet::UDP => {}
            _ => self.feed(now, data, None),
        }
    }

    fn ingress_tcp(&mut self, now: i64, data: &[u8], key: &Key, syn: Option<u32>) {
        if let Some(&at) = self.by_key.get(key) {
            self.touch(at);
            if syn.is_none() || !self.has_ended(at) {
                self.feed(now, data, Some(at));
                return;
            }
            self.by_key.remove(key); // the client uses its port again, before anybody has looked
        }
        let Some(sequence) = syn else {
            self.feed(now, data, None); // of a connection that has gone: reset
            return;
        };
        let known = self.by_syn.get(&(*key, sequence)).and_then(|at| self.flow(*at));
        match known.map(|flow| &flow.state) {
            None => self.hold(*key, sequence, data),
            Some(State::Answered(Refusal::Unreachable)) => self.tell_unreachable(data),
            _ => {} // a retransmission: it waits with the first
        }
    }

    fn has_ended(&mut self, at: u32) -> bool {
        use tcp::State::{Closed, TimeWait};
        self.socket(at).is_some_and(|socket| matches!(socket.state(), Closed | TimeWait))
    }

    fn hold(&mut self, key: Key, sequence: u32, syn: &[u8]) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.flows.push(None);
            self.flows.len() as u32 - 1
        });
        self.made = self.made.wrapping_add(1).max(1);
        let id = u64::from(self.made) << 32 | u64::from(at);
        let state = State::Held(syn.to_vec());
        self.flows[at as usize] = Some(Flow { id, key, sequence, state, touched: false });
        self.by_syn.insert((key, sequence), at);
        self.events.push_back(Event::Connecting { flow: id, key });
    }

    fn feed(&mut self, now: i64, data: &[u8], at: Option<u32>) {
        let set = match at.and_then(|at| self.flows[at as usize].as_mut()) {
            Some(Flow { state: State::Live(live), .. }) => &mut live.set,
            _ => &mut self.none,
        };
        let mut port =
            Port { input: Some(data), out: &mut self.out, capabilities: &self.capabilities };
        self.interface.poll_ingress_single(instant(now), &mut port, set);
    }

    fn tell_unreachable(&mut self, syn: &[u8]) {
        if let Some(made) = packet::unreachable(syn, Unreachable::Host) {
            self.out.put(made);
        }
    }

    /// Lets a held connection in: its SYN is answered.
    pub fn accept(&mut self, now: i64, at: u32) {
        let buffer = self.options.buffer;
        let Some(flow) = self.flow_mut(at) else { return };
        let State::Held(syn) = &mut flow.state else { return };
        let syn = std::mem::take(syn);
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; buffer]),
            tcp::SocketBuffer::new(vec![0; buffer]),
        );
        let to = (IpAddress::from(flow.key.target), flow.key.target_port);
        let listening = socket.listen(to);
        socket.set_nagle_enabled(false); // with the kernel's delayed ACK: 40 ms a request
        socket.set_ack_delay(None);
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        flow.state = State::Live(Box::new(Live { set, handle, timer: None }));
        let (key, sequence) = (flow.key, flow.sequence);
        self.by_syn.remove(&(key, sequence));
        if let Some(old) = self.by_key.insert(key, at) {
            self.remove(old);
            self.by_key.insert(key, at);
        }
        if listening.is_err() {
            self.remove(at); // port 0: nothing can be there
            self.feed(now, &syn, None);
            return;
        }
        self.touch(at);
        self.feed(now, &syn, Some(at));
    }

    pub fn refuse(&mut self, now: i64, at: u32, how: Refusal) {
        let Some(flow) = self.flow_mut(at) else { return };
        let State::Held(syn) = &mut flow.state else { return };
        let syn = std::mem::take(syn);
        if how == Refusal::Reset {
            self.remove(at);
            self.feed(now, &syn, None);
            return;
        }
        flow.state = State::Answered(how);
        let id = flow.id;
        self.answered.push_back((now, id));
        if how == Refusal::Unreachable {
            self.tell_unreachable(&syn);
        }
        self.forget_answers(now);
    }

    fn forget_answers(&mut self, now: i64) {
        while self.answered.front().is_some_and(|(since, _)| now - since > ANSWERED_FOR) {
            let Some((_, id)) = self.answered.pop_front() else { return };
            if let Some(at) = self.find(id) {
                self.remove(at);
            }
        }
    }

    pub fn socket(&mut self, at: u32) -> Option<&mut tcp::Socket<'static>> {
        match &mut self.flow_mut(at)?.state {
            State::Live(live) => Some(live.set.get_mut::<tcp::Socket<'static>>(live.handle)),
            _ => None,
        }
    }

    /// Sends what a connection has to send, and notes when it wants to be called again.
    pub fn egress(&mut self, now: i64, at: u32) {
        let Some(Some(flow)) = self.flows.get_mut(at as usize) else { return };
        let State::Live(live) = &mut flow.state else { return };
        let mut port = Port { input: None, out: &mut self.out, capabilities: &self.capabilities };
        let time = instant(now);
        while self.interface.poll_egress(time, &mut port, &mut live.set) != PollResult::None {}
        let next = self.interface.poll_at(time, &live.set).map(|due| due.total_micros());
        if next != live.timer {
            if let Some(old) = live.timer.take() {
                self.timers.remove(&(old, at));
            }
            if let Some(due) = next {
                self.timers.insert((due, at));
            }
            live.timer = next;
        }
    }

    pub fn standing(&mut self, at: u32) -> Standing {
        let Some(socket) = self.socket(at) else { return Standing::default() };
        let state = socket.state();
        let unread = socket.can_recv();
        let begun = !matches!(state, tcp::State::Listen | tcp::State::SynReceived);
        let mut found = Standing { established: begun, ..Standing::default() };
        if begun && !socket.may_recv() && !unread {
            found.ended = socket.recv_slice(&mut []) == Err(tcp::RecvError::Finished);
            found.reset = !found.ended && state == tcp::State::Closed;
        }
        found.over = match state {
            tcp::State::Closed | tcp::State::TimeWait => !unread,
            tcp::State::Listen => true, // a reset in the handshake: smoltcp listens again
            _ => false,
        };
        found
    }

    /// Says that a connection is to be looked at (`take_touched`).
    pub fn touch(&mut self, at: u32) {
        if let Some(Some(flow)) = self.flows.get_mut(at as usize)
            && !flow.touched
        {
            flow.touched = true;
            self.touched.push(at);
        }
    }

    pub fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// The connections that something has happened to, or whose time has come.
    pub fn take_touched(&mut self, now: i64) -> Vec<u32> {
        while let Some(&(due, at)) = self.timers.first() {
            if due > now {
                break;
            }
            self.timers.pop_first();
            if let Some(Some(Flow { state: State::Live(live), .. })) =
                self.flows.get_mut(at as usize)
            {
                live.timer = None;
            }
            self.touch(at);
        }
        let taken = std::mem::take(&mut self.touched);
        for &at in &taken {
            if let Some(flow) = self.flow_mut(at) {
                flow.touched = false;
            }
        }
        taken
    }

    pub fn next_timer(&self) -> Option<i64> {
        self.timers.first().map(|(due, _)| *due)
    }

    pub fn remove(&mut self, at: u32) {
        let Some(flow) = self.flows.get_mut(at as usize).and_then(Option::take) else { return };
        if let State::Live(live) = flow.state
            && let Some(due) = live.timer
        {
            self.timers.remove(&(due, at));
        }
        if self.by_key.get(&flow.key) == Some(&at) {
            self.by_key.remove(&flow.key);
        }
        if self.by_syn.get(&(flow.key, flow.sequence)) == Some(&at) {
            self.by_syn.remove(&(flow.key, flow.sequence));
        }
        self.free.push(at);
    }

    /// A datagram to the client; false when it cannot be one.
    pub fn send_datagram(&mut self, key: &Key, payload: &[u8]) -> bool {
        let made = packet::datagram(key, payload);
        let sent = made.is_some();
        made.into_iter().for_each(|data| self.out.put(data));
        sent
    }

    /// Tells a client that its datagram along `key` found nobody.
    pub fn port_unreachable(&mut self, key: &Key) {
        let about = packet::datagram(key, &[]);
        let made = about.and_then(|about| packet::unreachable(&about, Unreachable::Port));
        made.into_iter().for_each(|data| self.out.put(data));
    }
}
