//! A bounded table whose entries have keys that are never used twice for different entries soon.
//!
//! A key is `kind (4 bits) | generation (28 bits) | index (32 bits)`: an event of a socket that is gone
//! finds another generation, hence nothing.

use crate::host::Key;

/// What an entry is, in the top bits of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Stream = 1,
    Udp = 2,
    Dns = 3,
    Ping = 4,
    Forward = 5,
}

impl Kind {
    pub(crate) fn of(key: Key) -> Option<Self> {
        [Self::Stream, Self::Udp, Self::Dns, Self::Ping, Self::Forward]
            .into_iter()
            .find(|&kind| kind as u64 == key.0 >> 60)
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

pub(crate) struct Slab<T> {
    kind: Kind,
    limit: usize,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new(kind: Kind, limit: usize) -> Self {
        Self { kind, limit, slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    fn key(&self, index: u32) -> Key {
        let generation = u64::from(self.slots[index as usize].generation & 0x0fff_ffff);
        Key((self.kind as u64) << 60 | generation << 32 | u64::from(index))
    }

    /// Makes an entry with what `make` makes of its key; `None` if the table is full.
    pub(crate) fn insert_with<E>(
        &mut self,
        make: impl FnOnce(Key) -> Result<T, E>,
    ) -> Option<Result<Key, E>> {
        if self.is_full() {
            return None;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            (self.slots.len() - 1) as u32
        });
        let key = self.key(index);
        Some(match make(key) {
            Ok(value) => {
                self.slots[index as usize].value = Some(value);
                Ok(key)
            }
            Err(error) => {
                self.retire(index);
                Err(error)
            }
        })
    }

    fn retire(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let index = key.0 as u32;
        if (index as usize) < self.slots.len() && self.key(index) == key {
            self.slots[index as usize].value.as_mut()
        } else {
            None
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        let value = self.slots[key.0 as usize & 0xffff_ffff].value.take();
        self.retire(key.0 as u32);
        value
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        let with_key = |(index, slot): (usize, &'_ Slot<T>)| {
            slot.value.as_ref().map(|_| self.key(index as u32))
        };
        self.slots
            .iter()
            .enumerate()
            .filter_map(move |(index, slot)| Some((with_key((index, slot))?, slot.value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_entries_that_are_gone_find_nothing() {
        let mut slab = Slab::new(Kind::Udp, 2);
        let insert = |slab: &mut Slab<u8>, value| slab.insert_with(|_| Ok::<_, ()>(value));
        let first = insert(&mut slab, 1).expect("room").expect("made");
        let second = insert(&mut slab, 2).expect("room").expect("made");
        assert!(insert(&mut slab, 3).is_none(), "two entries, no more");
        assert_eq!(slab.remove(first), Some(1));
        let third = insert(&mut slab, 3).expect("room again").expect("made");
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.get_mut(third), Some(&mut 3));
        assert_eq!((slab.remove(first), slab.len()), (None, 2));
        assert_eq!(slab.keys(), [third, second]);
        assert_eq!(Kind::of(third), Some(Kind::Udp));
        assert_eq!(slab.get_mut(Key(u64::MAX)), None);
    }
}
