//! What keyboard and tablet say of themselves (virtio 1.2, 5.8.4): names, ids, events they can send.

use super::TABLET_MAX;

/// Numbers of Linux's input events (include/uapi/linux/input-event-codes.h).
#[allow(missing_docs)]
pub mod codes {
    pub const EV_SYN: u16 = 0;
    pub const EV_KEY: u16 = 1;
    pub const EV_REL: u16 = 2;
    pub const EV_ABS: u16 = 3;
    pub const EV_LED: u16 = 0x11;
    pub const EV_REP: u16 = 0x14;
    pub const SYN_REPORT: u16 = 0;
    pub const REL_HWHEEL: u16 = 6;
    pub const REL_WHEEL: u16 = 8;
    pub const ABS_X: u16 = 0;
    pub const ABS_Y: u16 = 1;
    pub const BTN_LEFT: u16 = 0x110;
    pub const KEY_A: u16 = 30;
}

const ID_NAME: u8 = 0x01;
const ID_SERIAL: u8 = 0x02;
const ID_NUMBERS: u8 = 0x03;
const PROPERTIES: u8 = 0x10;
const EVENT_BITS: u8 = 0x11;
const ABS_INFO: u8 = 0x12;

const BUS_VIRTUAL: u16 = 6;
const VENDOR: u16 = 0x1af4;
/// The touch comes where the pointer is (INPUT_PROP_POINTER).
const POINTER: u16 = 0;

/// A device's description.
#[derive(Debug)]
pub(super) struct Model {
    name: &'static str,
    product: u16,
    properties: &'static [u16],
    /// Event types and their codes.
    events: Vec<(u16, Vec<u16>)>,
}

impl Model {
    pub(super) fn keyboard() -> Self {
        Self {
            name: "Oneroof keyboard",
            product: 1,
            properties: &[],
            events: vec![
                (codes::EV_KEY, (1..249).collect()),
                (codes::EV_LED, vec![0, 1, 2]),
                (codes::EV_REP, vec![0, 1]),
            ],
        }
    }

    pub(super) fn tablet() -> Self {
        let buttons = (codes::BTN_LEFT..codes::BTN_LEFT + 3).collect();
        Self {
            name: "Oneroof tablet",
            product: 2,
            properties: &[POINTER],
            events: vec![
                (codes::EV_KEY, buttons),
                (codes::EV_REL, vec![codes::REL_HWHEEL, codes::REL_WHEEL]),
                (codes::EV_ABS, vec![codes::ABS_X, codes::ABS_Y]),
            ],
        }
    }

    /// Its product number.
    pub(super) fn product(&self) -> u16 {
        self.product
    }

    /// The answer to a selection; empty: there is none.
    pub(super) fn config(&self, select: u8, subselect: u8) -> Vec<u8> {
        let codes_of = |kind: u16| self.events.iter().find(|events| events.0 == kind);
        match (select, subselect) {
            (ID_NAME, 0) => self.name.into(),
            (ID_SERIAL, 0) => b"oneroof".to_vec(),
            (ID_NUMBERS, 0) => {
                [BUS_VIRTUAL, VENDOR, self.product, 1].map(u16::to_le_bytes).concat()
            }
            (PROPERTIES, 0) => bitmap(self.properties),
            (EVENT_BITS, kind) => {
                codes_of(kind.into()).map(|(_, codes)| bitmap(codes)).unwrap_or_default()
            }
            (ABS_INFO, axis) => match codes_of(codes::EV_ABS) {
                Some((_, axes)) if axes.contains(&axis.into()) => {
                    [0, TABLET_MAX, 0, 0, 0].map(u32::to_le_bytes).concat()
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

/// A bit for each number, as many bytes as that takes.
fn bitmap(numbers: &[u16]) -> Vec<u8> {
    let bytes = numbers.iter().max().map_or(0, |most| usize::from(most / 8) + 1);
    let mut map = vec![0; bytes];
    for number in numbers {
        map[usize::from(number / 8)] |= 1 << (number % 8);
    }
    map
}
