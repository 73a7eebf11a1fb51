//! The C ABI. What is called from outside is here, and nothing else is `unsafe`.
//!
//! No panic crosses: one becomes an error. Numbers at or below zero are negated errnos.
#![allow(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crate::driver::{self, Device};
use crate::record::VERSION;
use crate::stack::Options;

/// `struct nc_config` of redirect/tun_stack.py. The descriptors are taken over, whatever comes of it.
#[repr(C)]
pub struct Config {
    pub seed: u64,
    pub mtu: u32,
    pub buffer: u32,
    pub offload: u32,
    pub tun: i32,
    pub loopback: i32,
    pub diag: i32,
    pub locals: u32,
    pub own: u32,
}

pub struct Running(Option<JoinHandle<()>>);

fn guarded<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

#[unsafe(no_mangle)]
pub extern "C" fn nc_abi_version() -> u32 {
    VERSION
}

/// Starts a thread. Returns the channel's descriptor, whose owner is the caller, or a negated errno; `handle`
/// is for `nc_join`.
///
/// # Safety
/// `config` points to a `Config` of open descriptors that nobody else closes, `addresses` to 16 bytes for
/// each of its `locals`, `handle` to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_start(
    config: *const Config,
    addresses: *const u8,
    handle: *mut *mut Running,
) -> i32 {
    guarded(-5, || {
        // SAFETY: the caller's promise above.
        let (config, addresses) = unsafe {
            let config = &*config;
            let length = config.locals as usize * 16;
            let addresses =
                if length == 0 { &[][..] } else { std::slice::from_raw_parts(addresses, length) };
            (config, addresses)
        };
        // SAFETY: the caller gives them away.
        let [tun, loopback, diag] = [config.tun, config.loopback, config.diag]
            .map(|number| unsafe { OwnedFd::from_raw_fd(number) });
        let locals = addresses.chunks_exact(16).map(|bytes| {
            let address = Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| bytes[i]));
            address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
        });
        let options = Options {
            mtu: config.mtu as usize,
            offload: config.offload != 0,
            buffer: config.buffer as usize,
            seed: config.seed,
        };
        let locals: Vec<IpAddr> = locals.collect();
        let own = locals[..locals.len().min(config.own as usize)].to_vec();
        let device = Device { tun, loopback, diag, own, locals: locals.into_iter().collect() };
        match driver::start(device, options) {
            Ok((thread, channel)) => {
                let running = Box::into_raw(Box::new(Running(Some(thread))));
                // SAFETY: the caller's promise above.
                unsafe { *handle = running };
                channel.into_raw_fd()
            }
            Err(error) => -error.raw_os_error(),
        }
    })
}

/// Waits until the thread has ended, which it does when told to stop or when the channel is closed.
///
/// # Safety
/// `handle` is from `nc_start`, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nc_join(handle: *mut Running) -> i32 {
    guarded(-5, || {
        // SAFETY: the caller's promise above.
        let mut running = unsafe { Box::from_raw(handle) };
        match running.0.take().map(JoinHandle::join) {
            Some(Ok(())) => 0,
            _ => -5,
        }
    })
}
