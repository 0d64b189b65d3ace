//! Making packs: slots are copied as they are, by stretches of a file.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::cleaner::Recipe;
use crate::error::Error;
use crate::inner::Inner;
use crate::pack::{self, Kept, PackRow};
use crate::slot::SLOT;
use crate::store::Medium;
use crate::sync::lock;
use crate::table::{Segment, Source};

/// Slots that one read spans at most, and bytes written at a time.
const SPAN: u64 = 256;
/// What lies between two slots is read with them if it is no more than so many slots: a copy costs less than a call.
const GAP: u64 = 3;

/// A pack that is being filled.
struct Filling<'a> {
    name: &'a str,
    file: &'a dyn Medium,
    buffer: Vec<u8>,
    to: u64,
    digest: blake3::Hasher,
    pieces: Vec<(String, u64, u64)>,
}

impl Inner {
    /// Moves what is kept of some segments to a new pack, durably; the next root will say so.
    pub(crate) fn write_pack(&self, segments: &[(Arc<Segment>, Kept)]) -> Result<Recipe, Error> {
        let store = self.table.store();
        let (number, file) = loop {
            let number = {
                let mut state = lock(&self.state);
                state.books.next_pack += 1;
                state.books.next_pack - 1
            };
            match store.create(&pack::name(number)) {
                Ok(file) => break (number, file),
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
                Err(why) => return Err(Error::io(pack::name(number), why)),
            }
        };
        let result = self.fill_pack(segments, number, &*file);
        if result.is_err() {
            let _ = store.remove(&pack::name(number));
        }
        let (recipe, rows) = result?;
        for ((segment, _), row) in segments.iter().zip(rows) {
            self.table.move_to_pack(segment, number, row, file.clone());
        }
        Ok(recipe)
    }

    fn fill_pack(
        &self,
        segments: &[(Arc<Segment>, Kept)],
        number: u64,
        file: &dyn Medium,
    ) -> Result<(Recipe, Vec<PackRow>), Error> {
        let name = pack::name(number);
        let failed = |why| Error::io(&name, why);
        let mut at = pack::start(segments.len());
        let mut rows = Vec::new();
        for (segment, kept) in segments {
            let count = u64::from(kept.count());
            let (number, epoch, salt) = (segment.number, segment.epoch, segment.salt);
            rows.push(PackRow { segment: number, epoch, salt, offset: at, kept: kept.clone() });
            at += count * SLOT as u64;
        }
        at += pack::start(segments.len());
        let start = pack::encode(number, &rows, at, &self.table.ring(), self.table.id())?;
        file.reserve(at).map_err(failed)?;
        let (buffer, digest) = (Vec::with_capacity(2 * SPAN as usize * SLOT), blake3::Hasher::new());
        let mut filling = Filling { name: &name, file, buffer, to: 0, digest, pieces: Vec::new() };
        filling.buffer.extend_from_slice(&start);
        for (segment, kept) in segments {
            let source = self.table.source(segment)?;
            let mut places = Vec::with_capacity(kept.count() as usize);
            for index in kept.indexes() {
                let lost = || Error::Damaged(Box::new(segment.damage(index, "the slot was not kept")));
                places.push(source.place(index).ok_or_else(lost)?);
            }
            filling.copy(&source, &places)?;
        }
        let digest = filling.finish(&start)?;
        file.sync().and_then(|()| self.table.store().sync()).map_err(failed)?;
        let pieces = filling.pieces;
        Ok((Recipe { name: name.clone(), start, pieces, length: at, digest }, rows))
    }
}

impl Filling<'_> {
    /// Adds the slots that lie at `places` of a file, ascending.
    fn copy(&mut self, source: &Source, places: &[u64]) -> Result<(), Error> {
        let slot = SLOT as u64;
        let mut read = vec![0; SPAN as usize * SLOT];
        let mut rest = places;
        while let Some(first) = rest.first().copied() {
            let near = |pair: &&[u64]| pair[1] - pair[0] <= (1 + GAP) * slot && pair[1] - first < SPAN * slot;
            let count = 1 + rest.windows(2).take_while(near).count();
            let (some, others) = rest.split_at(count);
            let stretch = &mut read[..(some[count - 1] - first) as usize + SLOT];
            let size = source.file.read_at(stretch, first).map_err(|why| Error::io(&source.name, why))?;
            // What the file does not have is damage where it is read, not here.
            stretch[size..].fill(0);
            for at in some {
                let from = (at - first) as usize;
                self.buffer.extend_from_slice(&stretch[from..from + SLOT]);
                self.piece(&source.name, *at..*at + slot);
            }
            if self.buffer.len() >= SPAN as usize * SLOT {
                self.write()?;
            }
            rest = others;
        }
        Ok(())
    }

    fn piece(&mut self, name: &str, range: Range<u64>) {
        match self.pieces.last_mut() {
            Some((file, at, length)) if file == name && *at + *length == range.start => {
                *length += range.end - range.start;
            }
            _ => self.pieces.push((name.to_owned(), range.start, range.end - range.start)),
        }
    }

    fn write(&mut self) -> Result<(), Error> {
        self.file.write_at(&self.buffer, self.to).map_err(|why| Error::io(self.name, why))?;
        self.digest.update(&self.buffer);
        self.to += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The table stands at the end again: without it nobody could tell which slots these are.
    fn finish(&mut self, start: &[u8]) -> Result<[u8; 32], Error> {
        self.buffer.extend_from_slice(start);
        self.write()?;
        Ok(*self.digest.finalize().as_bytes())
    }
}
