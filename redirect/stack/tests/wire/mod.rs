//! A client of its own: smoltcp, on a device whose packets are taken and given by hand.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address};

pub const MTU: usize = 1500;

#[derive(Default)]
pub struct Wire {
    pub input: VecDeque<Vec<u8>>,
    pub output: Vec<Vec<u8>>,
}

pub struct In(Vec<u8>);
pub struct Out<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut data = vec![0; length];
        let result = write(&mut data);
        self.0.push(data);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: Instant) -> Option<(In, Out<'_>)> {
        Some((In(self.input.pop_front()?), Out(&mut self.output)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        Some(Out(&mut self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut made = DeviceCapabilities::default();
        made.medium = Medium::Ip;
        made.max_transmission_unit = MTU;
        made
    }
}

pub fn client(wire: &mut Wire) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = 2;
    let mut client = Interface::new(config, wire, Instant::from_micros(0));
    client.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(IpAddress::v4(192, 0, 2, 1), 24)).unwrap();
    });
    client.routes_mut().add_default_ipv4_route(Ipv4Address::new(192, 0, 2, 254)).unwrap();
    client
}

pub fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 65_536]);
    tcp::Socket::new(buffer(), buffer())
}
