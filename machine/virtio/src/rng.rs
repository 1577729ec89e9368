//! The entropy device (virtio 1.2, 5.4): one queue of buffers to fill with random bytes.

use snapshot::{Decoder, Encoder, SnapshotError, State};

use crate::device::{Device, Handler, Kind, Queues};
use crate::queue::Broken;
use crate::state::ModelV1;
use crate::worker::Waker;

/// Where random bytes come from: fills the slice, or gives nothing.
pub type Entropy = std::sync::Arc<dyn Fn(&mut [u8]) -> std::io::Result<()> + Send + Sync>;

/// A buffer gets at most this many bytes, which the device may decide (5.4.6.1).
const MOST: usize = 4096;

/// The device.
#[derive(Clone)]
pub struct Rng(Entropy);

impl Rng {
    /// Random bytes of the host's kernel.
    pub fn of_host() -> Self {
        Self::new(std::sync::Arc::new(|bytes: &mut [u8]| {
            let mut done = 0;
            while done < bytes.len() {
                let flags = rustix::rand::GetRandomFlags::empty();
                done += rustix::rand::getrandom(&mut bytes[done..], flags)?;
            }
            Ok(())
        }))
    }

    /// The device in a saved state.
    pub fn restore(source: Entropy, RngV1: RngV1) -> Self {
        Self::new(source)
    }

    /// Random bytes of one's own, for runs that must repeat.
    pub fn new(source: Entropy) -> Self {
        Self(source)
    }
}

/// An entropy device, first version: it has no state beside its queue, and what comes next is never saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RngV1;

impl State for RngV1 {
    const KIND: snapshot::Kind = snapshot::Kind(*b"vrng");
    const VERSION: u16 = 1;
    const MOST_BYTES: usize = 0;

    fn encode(&self, _to: &mut Encoder) {}

    fn decode(_from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        Ok(Self)
    }
}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rng")
    }
}

impl Device for Rng {
    fn kind(&self) -> Kind {
        Kind::Entropy
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config_read(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, _features: u64, _waker: Waker) -> Box<dyn Handler> {
        Box::new(self.clone())
    }

    fn save(&self) -> ModelV1 {
        ModelV1::Rng(RngV1)
    }
}

impl Handler for Rng {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        queues.serve(0, |chain| {
            let mut bytes = [0; MOST];
            let bytes = &mut bytes[..MOST.min(chain.writable() as usize)];
            // A host without random bytes gives the guest none, which its driver asks for again.
            if (self.0)(bytes).is_ok() {
                chain.write(bytes);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::Machine;

    #[test]
    fn a_saved_device_goes_on_with_its_next_buffer() {
        let source = |value: u8| -> Entropy {
            Arc::new(move |bytes: &mut [u8]| {
                bytes.fill(value);
                Ok(())
            })
        };
        let mut machine = Machine::new(|_| Box::new(Rng::new(source(1))), 0, true);
        machine.offer(0, 0, &[(0x4_0000, 16, true)]);
        machine.queues[0].offer_chain(1, &[(0x4_0100, 5000, true)]);
        let machine = machine.reborn(|_, state| {
            let ModelV1::Rng(state) = state else { panic!("entropy: {state:?}") };
            Box::new(Rng::restore(source(2), *state))
        });
        assert_eq!((machine.queues[0].used(0), machine.queues[0].used(1)), ((0, 16), (1, 4096)));
        assert_eq!(machine.queues[0].read(0x4_0000, 17), [&[1; 16][..], &[0]].concat());
        assert_eq!(machine.queues[0].read(0x4_0100, 2), [2, 2]);
    }
}
