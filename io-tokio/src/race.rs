//! The race between the addresses of a host: Happy Eyeballs, RFC 8305.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

/// The result of the first `connect` that succeeds, or `None` when all have failed.
///
/// The addresses are tried in the order of [`interleaved`]. The next one starts when `delay` is
/// over, or at once when one that was started has failed; those started go on. Those that lose are
/// dropped with their sockets, and so are all of them when the future is dropped.
pub(crate) async fn race<T, E, F>(
    addresses: Vec<SocketAddr>,
    delay: Duration,
    mut connect: impl FnMut(SocketAddr) -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = interleaved(addresses);
    let mut running = FuturesUnordered::new();
    loop {
        running.extend(waiting.pop_front().map(&mut connect));
        let next = if waiting.is_empty() {
            running.next().await
        } else {
            match timeout(delay, running.next()).await {
                Ok(next) => next,
                Err(_) => continue,
            }
        };
        match next {
            Some(Ok(winner)) => return Some(winner),
            Some(Err(_)) => {}
            None => return None,
        }
    }
}

/// The addresses with their families taking turns, RFC 8305 §4. The family of the first address
/// goes first: the resolver has sorted them by RFC 6724, which puts IPv6 first on a host that has a
/// route for it.
fn interleaved(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut these, mut those): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == v6_first);
    let mut order = VecDeque::with_capacity(these.len() + those.len());
    while let Some(address) = these.pop_front() {
        order.push_back(address);
        order.extend(those.pop_front());
    }
    order.extend(those);
    order
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending, rc::Rc};

    use tokio::time::{Instant, sleep};

    use super::*;

    const DELAY: Duration = Duration::from_millis(250);

    /// What an address does when it is dialed.
    #[derive(Clone, Copy)]
    enum Path {
        BlackHole,
        FailsAfter(u64),
        OpensAfter(u64),
    }
    use Path::{BlackHole, FailsAfter, OpensAfter};

    /// One per dial that is under way; the log has the times in ms at which dials began.
    struct Dial(Rc<RefCell<usize>>);
    impl Drop for Dial {
        fn drop(&mut self) {
            *self.0.borrow_mut() -= 1;
        }
    }

    /// The index of the winner, the ms that the race took, and when each dial began.
    async fn run(paths: &[Path]) -> (Option<usize>, u128, Vec<u128>) {
        let addresses = (0..paths.len()).map(v4).collect();
        let (start, began, alive) = (Instant::now(), RefCell::new(vec![]), Rc::default());
        let winner = race(addresses, DELAY, |address| {
            let index = usize::from(address.port());
            began.borrow_mut().push(start.elapsed().as_millis());
            *RefCell::borrow_mut(&alive) += 1;
            let (dial, path) = (Dial(Rc::clone(&alive)), paths[index]);
            async move {
                let _dial = dial;
                match path {
                    BlackHole => pending().await,
                    FailsAfter(ms) => sleep(Duration::from_millis(ms)).await,
                    OpensAfter(ms) => {
                        sleep(Duration::from_millis(ms)).await;
                        return Ok(index);
                    }
                }
                Err(())
            }
        })
        .await;
        assert_eq!(*alive.borrow(), 0, "the losers are dropped");
        (winner, start.elapsed().as_millis(), began.into_inner())
    }

    fn v4(port: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).expect("a small number")))
    }

    fn v6(port: u16) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))
    }

    /// H71
    #[tokio::test(start_paused = true)]
    async fn a_black_holed_address_costs_one_delay() {
        let (winner, took, began) = run(&[BlackHole, OpensAfter(20)]).await;
        assert_eq!((winner, took, began), (Some(1), 270, vec![0, 250]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_at_once() {
        let (winner, took, began) = run(&[FailsAfter(10), FailsAfter(10), OpensAfter(5)]).await;
        assert_eq!((winner, took, began), (Some(2), 25, vec![0, 10, 20]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_can_still_win() {
        let (winner, took, began) = run(&[OpensAfter(400), OpensAfter(300), BlackHole]).await;
        assert_eq!((winner, took, began), (Some(0), 400, vec![0, 250]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_second_address_beats_a_slow_first() {
        let (winner, took, _) = run(&[OpensAfter(900), OpensAfter(10)]).await;
        assert_eq!((winner, took), (Some(1), 260));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_have_failed_the_race_is_over() {
        let (winner, took, began) = run(&[FailsAfter(600), FailsAfter(10), FailsAfter(10)]).await;
        assert_eq!((winner, took, began), (None, 600, vec![0, 250, 260]));
        assert_eq!(run(&[]).await, (None, 0, vec![]));
    }

    #[test]
    fn families_take_turns_and_the_resolvers_first_goes_first() {
        let order = interleaved(vec![v6(1), v6(2), v6(3), v4(4), v4(5)]);
        assert_eq!(order, [v6(1), v4(4), v6(2), v4(5), v6(3)]);
        let order = interleaved(vec![v4(4), v6(1), v6(2), v6(3)]);
        assert_eq!(order, [v4(4), v6(1), v6(2), v6(3)]);
    }
}
