//! A port of the loopback interface that can be opened, closed and opened again.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Socket, Type};

/// The kernel's buffers for each socket. Small, so that what is in flight is mostly in the delay
/// line, where a fault can reach it; large enough for tens of megabytes a second on loopback.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 64 * 1024;

const BACKLOG: i32 = 1024;

/// A reserved port. While nobody listens on it, connections to it are really refused; and no other
/// process can take it meanwhile, nor can the kernel choose it for an outgoing connection (which
/// could then connect to itself).
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    /// Bound, and never listening.
    _reservation: Socket,
}

impl Port {
    pub(crate) fn reserve() -> io::Result<Self> {
        let reservation = bind(0)?;
        let address =
            reservation.local_addr()?.as_socket().expect("the socket was bound to an IPv4 address");
        Ok(Self { address, _reservation: reservation })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Listens on `port` of the loopback interface. Dropping the listener closes the port.
pub(crate) fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = bind(port)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Without these the port could not be bound again while connections of before linger, or
    // beside its reservation.
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_reserved_port_refuses_until_somebody_listens_and_again_after() {
        let port = Port::reserve().unwrap();
        for _ in 0..3 {
            let refused = TcpStream::connect(port.address()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let listener = listen(port.address().port()).unwrap();
            TcpStream::connect(port.address()).unwrap();
            drop(listener);
        }
    }
}
