//! A client and the stack, a bad network between them, in virtual time: the same seed, the same trace.

mod wire;

use netcapture_stack::link::{Faults, Link, Tally};
use netcapture_stack::packet;
use netcapture_stack::stack::{Event, Options, Stack};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::IpAddress;
use wire::{MTU, Wire};

const SECOND: i64 = 1_000_000;

/// What was put on the wire: when, which way, how long, and the sum of its bytes.
type Trace = Vec<(i64, bool, usize, u16)>;

struct Network {
    now: i64,
    stack: Stack,
    up: Link,
    down: Link,
    wire: Wire,
    client: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    trace: Trace,
    received: Vec<u8>,
    sent: usize,
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

impl Network {
    fn new(up: Faults, down: Faults) -> Network {
        let options = Options { mtu: MTU, offload: false, buffer: 65_536, seed: 1 };
        let mut wire = Wire::default();
        let mut client = wire::client(&mut wire);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(wire::socket());
        let socket = sockets.get_mut::<tcp::Socket>(handle);
        let server = (IpAddress::v4(198, 51, 100, 7), 443);
        socket.connect(client.context(), server, 40_000).unwrap();
        let links = (Link::new(up), Link::new(down));
        Network {
            now: 0,
            stack: Stack::new(options),
            up: links.0,
            down: links.1,
            wire,
            client,
            sockets,
            handle,
            trace: Vec::new(),
            received: Vec::new(),
            sent: 0,
        }
    }

    /// Lets everything happen that happens now. The server echoes.
    fn step(&mut self) {
        let time = Instant::from_micros(self.now);
        while let Some(data) = self.down.pop(self.now) {
            self.wire.input.push_back(data);
        }
        self.client.poll(time, &mut self.wire, &mut self.sockets);
        for data in self.wire.output.drain(..) {
            self.trace.push((self.now, true, data.len(), packet::fold(packet::sum(0, &data))));
            self.up.push(self.now, data);
        }
        while let Some(data) = self.up.pop(self.now) {
            self.stack.ingress(self.now, &data, 0);
        }
        while let Some(happened) = self.stack.events.pop_front() {
            if let Event::Connecting { flow, .. } = happened {
                let at = self.stack.find(flow).unwrap();
                self.stack.accept(self.now, at);
            }
        }
        for at in self.stack.take_touched(self.now) {
            if let Some(socket) = self.stack.socket(at) {
                while socket.can_recv() && socket.can_send() {
                    let room = socket.send_capacity() - socket.send_queue();
                    let data = socket.recv(|data| {
                        let length = data.len().min(room);
                        (length, data[..length].to_vec())
                    });
                    socket.send_slice(&data.unwrap()).unwrap();
                }
            }
            self.stack.egress(self.now, at);
        }
        while let Some(frame) = self.stack.out.pop() {
            let sum = packet::fold(packet::sum(0, &frame.data));
            self.trace.push((self.now, false, frame.data.len(), sum));
            self.down.push(self.now, frame.data);
        }
    }

    fn next(&mut self) -> i64 {
        let time = Instant::from_micros(self.now);
        let client = self.client.poll_at(time, &self.sockets).map(|due| due.total_micros());
        let due = [client, self.stack.next_timer(), self.up.next(), self.down.next()];
        due.into_iter().flatten().min().unwrap_or(self.now + SECOND).max(self.now + 1)
    }

    /// Sends `data` to the echo and waits for all of it; returns the seconds of virtual time it took.
    fn echo(&mut self, data: &[u8]) -> f64 {
        let began = self.now;
        while self.received.len() < data.len() {
            assert!(self.now - began < 600 * SECOND, "stalled at {}", self.received.len());
            self.step();
            let socket = self.sockets.get_mut::<tcp::Socket>(self.handle);
            if socket.can_send() && self.sent < data.len() {
                self.sent += socket.send_slice(&data[self.sent..]).unwrap();
                continue;
            }
            if socket.can_recv() {
                let received = &mut self.received;
                socket.recv(|data| (data.len(), received.extend_from_slice(data))).unwrap();
                continue;
            }
            self.now = self.next();
        }
        assert_eq!(self.received, data);
        (self.now - began) as f64 / SECOND as f64
    }
}

fn bad(seed: u64) -> Faults {
    Faults {
        seed,
        loss: 10_000,
        duplicate: 20_000,
        reorder: 30_000,
        corrupt: 5_000,
        delay: 5_000,
        jitter: 2_000,
        ..Faults::default()
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_all_arrives() {
    let run = |seed| {
        let mut network = Network::new(bad(seed), bad(seed + 1));
        network.echo(&pattern(300_000));
        (network.trace, network.up.tally, network.down.tally)
    };
    let (first, up, down) = run(11);
    assert_eq!((first.clone(), up, down), run(11));
    for tally in [up, down] {
        let Tally { lost, duplicated, reordered, corrupted, .. } = tally;
        assert!([lost, duplicated, reordered, corrupted].iter().all(|n| *n > 0), "{tally:?}");
    }
    assert_ne!(first, run(12).0);
}

#[test]
fn a_clean_network_takes_no_time_and_loses_nothing() {
    let mut network = Network::new(Faults::default(), Faults::default());
    assert!(network.echo(&pattern(1 << 20)) < 0.01);
    assert_eq!(network.up.tally.lost + network.down.tally.lost, 0);
}

#[test]
fn delay_is_a_round_trip_each_way() {
    let slow = Faults { delay: 50_000, ..Faults::default() };
    let mut network = Network::new(slow, slow);
    let took = network.echo(&pattern(100)); // a handshake, and there and back
    assert!((0.2..0.201).contains(&took), "{took}");
}

#[test]
fn a_rate_is_kept() {
    let narrow = Faults { rate: 100_000, ..Faults::default() };
    let mut network = Network::new(Faults::default(), narrow);
    let took = network.echo(&pattern(500_000));
    assert!((5.0..5.5).contains(&took), "{took}"); // with headers
}

#[test]
fn an_mtu_black_hole_swallows_what_is_longer() {
    let mut link = Link::new(Faults { black_hole: 1000, ..Faults::default() });
    link.push(0, vec![0; 1000]);
    link.push(0, vec![0; 1001]);
    assert_eq!(link.pop(0).map(|data| data.len()), Some(1000));
    assert_eq!((link.pop(i64::MAX), link.tally.swallowed), (None, 1));
}
