//! What ends a visit from outside, beside what the visit does: polled when it has something to say, and not each time that
//! bytes come.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A future that rings when it is to be polled. Most of what a task is woken for is not its affair; and to be polled in
/// vain is not for nothing: who waits for something that all wait for takes a lock each time.
#[derive(Debug)]
pub(super) struct Belled<F> {
    future: F,
    bell: Option<Arc<Bell>>,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task is woken, so that it finds it rung.
        self.rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<F> Belled<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future, bell: None }
    }
}

impl<F: Future + Unpin> Future for Belled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // In the hands of another task, it has to learn whom it wakes.
        let bell = match &mut this.bell {
            Some(bell) if bell.task.will_wake(cx.waker()) => bell,
            bell => bell.insert(Arc::new(Bell { rung: AtomicBool::new(true), task: cx.waker().clone() })),
        };
        // Before it is polled: what comes meanwhile rings again.
        if !bell.rung.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(bell));
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::task::Waker;

    use super::*;

    /// Counts how often it is polled, and is ready when told.
    struct Slow<'a> {
        polls: &'a Cell<u32>,
        ready: &'a Cell<bool>,
        waker: &'a Cell<Option<Waker>>,
    }

    impl Future for Slow<'_> {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.polls.set(self.polls.get() + 1);
            self.waker.set(Some(cx.waker().clone()));
            if self.ready.get() { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    #[tokio::test]
    async fn it_is_polled_once_and_then_when_it_rings() {
        let (polls, ready, waker) = (Cell::new(0), Cell::new(false), Cell::new(None));
        let mut belled = Belled::new(Slow { polls: &polls, ready: &ready, waker: &waker });
        let mut poll = async || poll_fn(|cx| Poll::Ready(Pin::new(&mut belled).poll(cx).is_ready())).await;
        for _ in 0..3 {
            assert!(!poll().await);
            assert_eq!(polls.get(), 1);
        }
        waker.take().unwrap().wake();
        assert!(!poll().await);
        assert_eq!(polls.get(), 2, "it may ring in vain");
        ready.set(true);
        assert!(!poll().await, "it has not rung");
        waker.take().unwrap().wake_by_ref();
        assert!(poll().await);
    }

    #[tokio::test]
    async fn another_task_is_woken_too() {
        let (send, receive) = tokio::sync::oneshot::channel::<u8>();
        let mut belled = Belled::new(receive);
        // Polled by a waker that wakes nobody, it would never be polled again.
        assert!(Pin::new(&mut belled).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let waits = tokio::spawn(belled);
        tokio::task::yield_now().await;
        send.send(7).unwrap();
        assert_eq!(waits.await.unwrap(), Ok(7));
    }
}
