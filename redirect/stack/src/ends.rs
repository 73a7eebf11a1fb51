//! The ends of captured connections: a socket pair each, of which the engine has the other end.
//!
//! 1. An end is passed on as shutdown(2), both ways.
//! 2. Nothing is read that cannot be handed on: the client's window closes, and so does the engine's socket.
//! 3. Readiness is edge-triggered: it is kept until the kernel says that there is no more.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown,
    socketpair, sockopt,
};
use smoltcp::socket::tcp::Socket;

const SOCKET_BUFFER: usize = 256 << 10;

/// A pair of connected sockets, whose buffers hold as much as TCP's do.
pub fn pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
    for end in [&ours, &theirs] {
        sockopt::set_socket_send_buffer_size(end, SOCKET_BUFFER)?;
    }
    Ok((ours, theirs))
}

/// Our end of a connection's socket pair.
pub struct End {
    pub id: u64,
    /// Both sides have ended, or the engine has closed its.
    pub closed: bool,
    /// When the client was last seen to owe nothing but its own end, if it does.
    pub orphan_since: Option<i64>,
    socket: OwnedFd,
    readable: bool,
    writable: bool,
    ended: bool,
    told: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Moved {
    All,
    /// All, and the engine has just closed its end for writing.
    Ended,
    /// The engine has closed its end with data unread, or before more came.
    Broken,
}

impl End {
    /// Makes a pair that `epoll` watches; returns our end and the engine's.
    pub fn open(id: u64, epoll: &OwnedFd) -> Result<(End, OwnedFd), Errno> {
        let (socket, theirs) = pair(SocketType::STREAM)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(epoll, &socket, EventData::new_u64(id), flags)?;
        let end = End {
            id,
            closed: false,
            orphan_since: None,
            socket,
            readable: false,
            writable: true,
            ended: false,
            told: false,
        };
        Ok((end, theirs))
    }

    pub fn note(&mut self, flags: EventFlags) {
        let gone = EventFlags::HUP | EventFlags::ERR;
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | gone);
        self.writable |= flags.intersects(EventFlags::OUT | gone);
        self.closed |= flags.intersects(gone);
    }

    /// Tells the engine, once, that the client has ended its side.
    pub fn tell_end(&mut self) {
        if !self.told {
            self.told = true;
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// Moves bytes both ways as far as they go.
    pub fn move_bytes(&mut self, socket: &mut Socket<'static>) -> Moved {
        match self.hand_in(socket) {
            Moved::All => self.hand_out(socket),
            broken => broken,
        }
    }

    /// Moves all that the engine has written by now.
    pub fn move_last(&mut self, socket: &mut Socket<'static>) {
        self.readable = true;
        self.hand_out(socket);
    }

    fn hand_in(&mut self, socket: &mut Socket<'static>) -> Moved {
        let fd = self.socket.as_fd();
        while self.writable && socket.can_recv() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let moved = socket.recv(|bytes| match send(fd, bytes, flags) {
                Ok(length) => (length, Ok(length)),
                Err(error) => (0, Err(error)),
            });
            match moved {
                Ok(Ok(_)) | Ok(Err(Errno::INTR)) => {}
                Ok(Err(Errno::AGAIN)) => self.writable = false,
                _ => return Moved::Broken,
            }
        }
        Moved::All
    }

    fn hand_out(&mut self, socket: &mut Socket<'static>) -> Moved {
        let fd = self.socket.as_fd();
        while self.readable && !self.ended && socket.can_send() {
            let moved = socket.send(|bytes| match recv(fd, bytes, RecvFlags::DONTWAIT) {
                Ok((length, _)) => (length, Ok(length)),
                Err(error) => (0, Err(error)),
            });
            match moved {
                Ok(Ok(0)) => {
                    self.ended = true;
                    return Moved::Ended;
                }
                Ok(Ok(_)) | Ok(Err(Errno::INTR)) => {}
                Ok(Err(Errno::AGAIN)) => self.readable = false,
                _ => return Moved::Broken,
            }
        }
        Moved::All
    }
}
