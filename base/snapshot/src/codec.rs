//! Fields as bytes: little-endian numbers, lists behind their count.
//!
//! Invariant: each value has one encoding, so what was decoded encodes again as the same bytes.

use crate::error::SnapshotError;

/// Puts fields down.
#[derive(Debug, Default)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// What was put down.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    /// A byte: 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }

    /// Bytes whose number both sides know.
    pub fn array(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// Bytes behind their count.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.array(bytes);
    }

    /// Elements behind their count.
    pub fn list<T>(&mut self, list: &[T], mut put: impl FnMut(&mut Self, &T)) {
        self.u32(list.len() as u32);
        for one in list {
            put(self, one);
        }
    }

    /// A byte that says whether there is one, and it.
    pub fn option<T>(&mut self, option: Option<&T>, put: impl FnOnce(&mut Self, &T)) {
        self.bool(option.is_some());
        if let Some(one) = option {
            put(self, one);
        }
    }
}

/// Reads fields.
#[derive(Debug)]
pub struct Decoder<'a> {
    all: usize,
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// From the first byte on.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { all: bytes.len(), rest: bytes }
    }

    /// All was read.
    ///
    /// # Errors
    /// [`SnapshotError::Trailing`].
    pub fn finish(self) -> Result<(), SnapshotError> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(SnapshotError::Trailing(more as u64)),
        }
    }

    /// So many bytes, where they are.
    pub(crate) fn slice(&mut self, count: usize) -> Result<&'a [u8], SnapshotError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            let want = (self.all - self.rest.len()) as u64 + count as u64;
            return Err(SnapshotError::Truncated { want, have: self.all as u64 });
        };
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes whose number both sides know.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`], as all that read numbers.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        Ok(self.slice(N)?.try_into().expect("as many as were asked for"))
    }

    /// A byte.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`].
    pub fn u8(&mut self) -> Result<u8, SnapshotError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`].
    pub fn u16(&mut self) -> Result<u16, SnapshotError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`].
    pub fn u32(&mut self) -> Result<u32, SnapshotError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Truncated`].
    pub fn u64(&mut self) -> Result<u64, SnapshotError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A byte: 0 or 1.
    ///
    /// # Errors
    /// Another value, or none.
    pub fn bool(&mut self) -> Result<bool, SnapshotError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(SnapshotError::Value("a yes or no")),
        }
    }

    /// Bytes behind their count, `most` of them; `what` names them where they are more.
    ///
    /// # Errors
    /// More, or too few.
    pub fn bytes(&mut self, most: usize, what: &'static str) -> Result<Vec<u8>, SnapshotError> {
        let count = self.count(most, what)?;
        Ok(self.slice(count)?.to_vec())
    }

    /// Elements behind their count, `most` of them; `what` names them where they are more.
    ///
    /// # Errors
    /// More, or too few, or what `read` finds.
    pub fn list<T>(
        &mut self,
        most: usize,
        what: &'static str,
        mut read: impl FnMut(&mut Self) -> Result<T, SnapshotError>,
    ) -> Result<Vec<T>, SnapshotError> {
        let count = self.count(most, what)?;
        // Grows as elements are there: a count alone allocates nothing.
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(read(self)?);
        }
        Ok(list)
    }

    /// What may be there or not.
    ///
    /// # Errors
    /// Bytes that say neither, or what `read` finds.
    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, SnapshotError>,
    ) -> Result<Option<T>, SnapshotError> {
        self.bool()?.then(|| read(self)).transpose()
    }

    fn count(&mut self, most: usize, what: &'static str) -> Result<usize, SnapshotError> {
        let count = self.u32()? as usize;
        (count <= most).then_some(count).ok_or(SnapshotError::Value(what))
    }
}
