//! The network between the validator and the facilitator: a relay of bytes that breaks connections
//! in three ways. Each fault strikes the connections of its moment; new ones are good.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use crate::port::{self, Port};

/// The most that is read at once.
const CHUNK_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    ToFacilitator,
    ToValidator,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Break {
    /// RST to both sides.
    Reset,
    /// The next bytes in this direction arrive but for the last one, and then the connection ends:
    /// in the middle of a frame, for no frame is written in two pieces here.
    Tear(Direction),
    /// Bytes in this direction vanish without a trace, until an end notices and gives up.
    Silence(Direction),
}

/// What struck last, and how many strikes there were.
#[derive(Clone, Copy, Default, Debug)]
struct Struck {
    count: u64,
    last: Option<Break>,
}

/// A relay. Dropped, it resets what it carries.
#[derive(Debug)]
pub(crate) struct Network {
    address: SocketAddr,
    strikes: watch::Sender<Struck>,
    _serving: JoinSet<()>,
}

impl Network {
    /// Relays to the facilitator at this address.
    pub(crate) fn start(facilitator: SocketAddr) -> io::Result<Self> {
        let port = Port::reserve()?;
        let address = port.address();
        let listener = port::listen(address.port())?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let strikes = watch::Sender::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(port, listener, facilitator, strikes.clone()));
        Ok(Self { address, strikes, _serving: serving })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn strike(&self, fault: Break) {
        self.strikes.send_modify(|struck| {
            struck.count += 1;
            struck.last = Some(fault);
        });
    }
}

async fn serve(
    _port: Port,
    listener: TcpListener,
    facilitator: SocketAddr,
    strikes: watch::Sender<Struck>,
) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Accepting fails where the connection is gone already: there is nothing to relay.
                if let Ok((validator, _)) = accepted {
                    relays.spawn(relay(validator, facilitator, strikes.subscribe()));
                }
            }
            Some(_) = relays.join_next() => {}
        }
    }
}

/// The life of one connection.
async fn relay(
    mut validator: TcpStream,
    facilitator: SocketAddr,
    strikes: watch::Receiver<Struck>,
) {
    let born = strikes.borrow().count;
    if let Ok(mut facilitator) = TcpStream::connect(facilitator).await {
        let nodelay = validator.set_nodelay(true).and(facilitator.set_nodelay(true));
        let ended = {
            let (from_validator, to_validator) = validator.split();
            let (from_facilitator, to_facilitator) = facilitator.split();
            let up =
                carry(Direction::ToFacilitator, from_validator, to_facilitator, born, &strikes);
            let down =
                carry(Direction::ToValidator, from_facilitator, to_validator, born, &strikes);
            let mut changes = strikes.clone();
            let reset =
                changes.wait_for(|struck| struck.count > born && struck.last == Some(Break::Reset));
            tokio::select! {
                ended = async { tokio::try_join!(up, down) } => ended.is_ok(),
                _ = reset => false,
            }
        };
        if ended && nodelay.is_ok() {
            return;
        }
        let _ = facilitator.set_zero_linger();
    }
    // RST: whatever the kernel still holds of it is thrown away.
    let _ = validator.set_zero_linger();
}

/// Carries one direction to its end.
async fn carry(
    direction: Direction,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    born: u64,
    strikes: &watch::Receiver<Struck>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut silent = false;
    loop {
        let len = from.read(&mut buffer).await?;
        let struck = *strikes.borrow();
        match struck.last.filter(|_| struck.count > born) {
            Some(Break::Tear(side)) if side == direction && len > 1 => {
                to.write_all(&buffer[..len - 1]).await?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Some(Break::Silence(side)) if side == direction => silent = true,
            Some(Break::Tear(_) | Break::Silence(_) | Break::Reset) | None => {}
        }
        match len {
            // The end of the stream is swallowed like the rest of it; an end that is told so by the
            // other direction will do.
            0 if silent => std::future::pending().await,
            0 => return to.shutdown().await,
            _ if silent => {}
            _ => to.write_all(&buffer[..len]).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network with a connection through it, known to work: the validator's and the
    /// facilitator's end.
    async fn connected() -> (Network, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let network = Network::start(listener.local_addr().unwrap()).unwrap();
        let mut validator = TcpStream::connect(network.address()).await.unwrap();
        let (mut facilitator, _) = listener.accept().await.unwrap();
        validator.write_all(b"hello").await.unwrap();
        let mut received = [0; 5];
        facilitator.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"hello");
        (network, validator, facilitator)
    }

    #[tokio::test]
    async fn a_tear_delivers_all_but_the_last_byte_and_ends_the_connection() {
        let (network, mut validator, mut facilitator) = connected().await;
        network.strike(Break::Tear(Direction::ToFacilitator));
        validator.write_all(b"frame").await.unwrap();
        let mut received = [0; 4];
        facilitator.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"fram");
        assert!(matches!(facilitator.read(&mut received).await, Ok(0) | Err(_)));
        assert!(matches!(validator.read(&mut received).await, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn silence_in_one_direction_leaves_the_other() {
        let (network, mut validator, mut facilitator) = connected().await;
        network.strike(Break::Silence(Direction::ToFacilitator));
        validator.write_all(b"unheard").await.unwrap();
        facilitator.write_all(b"heard").await.unwrap();
        let mut received = [0; 5];
        validator.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"heard");
        network.strike(Break::Reset);
        assert!(facilitator.read_exact(&mut received).await.is_err());
    }
}
