//! Lets the faults of a script happen to a proxy and the server behind it.

use std::{io, time::Duration};

use tokio::time::{sleep, sleep_until};

use crate::{
    progress::Progress,
    proxy::Proxy,
    script::{Fault, Step},
    server::Server,
    workload::{FRAME_BYTES, Schedule},
};

/// How long it takes whoever watches over a server that hangs to start another.
const RESTART: Duration = Duration::from_millis(200);

/// Plays `steps` on the clock of `schedule`. Afterwards the network is good and the server runs.
pub(crate) async fn play(
    steps: &[Step],
    schedule: Schedule,
    proxy: &Proxy,
    server: &mut Server,
    progress: &Progress,
) -> io::Result<()> {
    for step in steps {
        sleep_until(schedule.start + step.at).await;
        progress.fault(Some(step.fault));
        match step.fault {
            Fault::Kill => replace(server, proxy, step.lasts).await?,
            Fault::Reset => proxy.reset(),
            Fault::Silence(direction) => {
                proxy.silence(Some(direction));
                sleep(step.lasts).await;
                // Cut first: nothing of a connection that has a hole may be carried again.
                proxy.reset();
                proxy.silence(None);
            }
            Fault::Freeze => {
                server.freeze()?;
                sleep(step.lasts).await;
                server.thaw()?;
            }
            Fault::Hang => {
                server.freeze()?;
                sleep(step.lasts).await;
                replace(server, proxy, RESTART).await?;
            }
            Fault::Flap => {
                proxy.flap(true);
                proxy.reset();
                sleep(step.lasts).await;
                proxy.flap(false);
            }
            Fault::Slow => {
                let needed = schedule.rate as f64 * FRAME_BYTES as f64;
                proxy.slow(Some(needed / 2.0));
                sleep(step.lasts).await;
                proxy.slow(None);
            }
            Fault::Refuse => {
                proxy.refuse(true);
                proxy.reset();
                sleep(step.lasts).await;
                proxy.refuse(false);
            }
            Fault::Close => proxy.close(),
        }
        progress.fault(None);
    }
    Ok(())
}

/// Kills the server and starts it again after `down`. Meanwhile its port, which for the client is
/// the proxy's, is closed. What the kernel of the dead does to its connections is left to it.
async fn replace(server: &mut Server, proxy: &Proxy, down: Duration) -> io::Result<()> {
    server.kill().await?;
    proxy.refuse(true);
    sleep(down).await;
    server.restart().await?;
    proxy.refuse(false);
    Ok(())
}
