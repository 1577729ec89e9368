//! What a keyboard or tablet saves: events that wait, LEDs, what the driver asks about.

use snapshot::{Decoder, Encoder, Kind, SnapshotError, State as Saved};

use super::model::Model;
use super::{Event, Input, Keyboard, MOST_EVENTS, Shared, State, Tablet, state};
use crate::state::StateError;

/// An input device, first version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputV1 {
    /// 1: a keyboard, 2: a tablet.
    pub product: u16,
    /// What the driver selected in the configuration space.
    pub selected: (u8, u8),
    /// Bit n: the guest has LED n on.
    pub leds: u32,
    /// Events that wait for the guest: type, code, value.
    pub waiting: Vec<(u16, u16, u32)>,
}

impl Input {
    pub(super) fn saved(&self) -> InputV1 {
        let state = state(&self.shared);
        let waiting = state.waiting.iter().map(|Event(kind, code, value)| (*kind, *code, *value));
        InputV1 {
            product: self.model.product(),
            selected: self.selected,
            leds: state.leds,
            waiting: waiting.collect(),
        }
    }

    /// The keyboard in a saved state.
    ///
    /// # Errors
    /// It was none, or the state is damaged.
    pub fn restore_keyboard(state: &InputV1) -> Result<(Self, Keyboard), StateError> {
        let device = Self::restore(Model::keyboard(), state)?;
        let hand = Keyboard(device.shared.clone());
        Ok((device, hand))
    }

    /// The tablet in a saved state.
    ///
    /// # Errors
    /// It was none, or the state is damaged.
    pub fn restore_tablet(state: &InputV1) -> Result<(Self, Tablet), StateError> {
        let device = Self::restore(Model::tablet(), state)?;
        let hand = Tablet(device.shared.clone());
        Ok((device, hand))
    }

    fn restore(model: Model, saved: &InputV1) -> Result<Self, StateError> {
        StateError::same("product", saved.product.into(), model.product().into())?;
        StateError::unless(saved.waiting.len() <= MOST_EVENTS, "too many events")?;
        let events = saved.waiting.iter().map(|&(kind, code, value)| Event(kind, code, value));
        let shared = Shared::default();
        *state(&shared) = State { waiting: events.collect(), waker: None, leds: saved.leds };
        Ok(Self { model, selected: saved.selected, shared })
    }
}

impl Saved for InputV1 {
    const KIND: Kind = Kind(*b"vinp");
    const VERSION: u16 = 1;
    const MOST_BYTES: usize = 12 + 8 * MOST_EVENTS;

    fn encode(&self, to: &mut Encoder) {
        to.u16(self.product);
        to.array(&[self.selected.0, self.selected.1]);
        to.u32(self.leds);
        to.list(&self.waiting, |to, &(kind, code, value)| {
            to.array(&Event(kind, code, value).encode());
        });
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        Ok(Self {
            product: from.u16()?,
            selected: from.array().map(|[select, subselect]| (select, subselect))?,
            leds: from.u32()?,
            waiting: from.list(MOST_EVENTS, "a number of events", |from| {
                let Event(kind, code, value) = Event::decode(from.array()?);
                Ok((kind, code, value))
            })?,
        })
    }
}
