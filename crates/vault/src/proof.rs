//! Telling damage from a power cut: what later parts of the log say about earlier ones.

use std::sync::Arc;

use crate::error::{Damage, Error};
use crate::keys::digest;
use crate::log::End;
use crate::recover::{Recovery, Successors, row};
use crate::roots::read_slots;
use crate::segment::{self, AFTER_DURABLE, SegmentHeader};
use crate::slot::{EARLIER, SLOTS};
use crate::table::Segment;

impl Recovery<'_> {
    /// Whether something later says that the slot at `index` had been durable.
    pub(crate) fn flushed_beyond(
        &self,
        segment: &Arc<Segment>,
        index: u32,
        follows: Option<&SegmentHeader>,
        successors: &Successors,
    ) -> Result<Option<Damage>, Error> {
        let damage = || Some(segment.damage(index, "it is not as it was written, yet was durable"));
        let mut proved = false;
        read_slots(self.table, segment, index + 1, SLOTS, |_, opened| {
            proved = opened.is_some_and(|(header, _)| header.durable > index);
            !proved
        })?;
        if proved {
            return Ok(damage());
        }
        let Some(mut header) = follows else { return Ok(None) };
        loop {
            if header.flags & AFTER_DURABLE != 0 && (header.before != segment.number || header.before_end > index) {
                return Ok(damage());
            }
            if self.says_earlier(header)? {
                return Ok(damage());
            }
            let continues = |next: &&SegmentHeader| next.before_digest == digest(&header.salt);
            match successors.get(&header.number).and_then(|headers| headers.iter().find(continues)) {
                Some(next) => header = next,
                None => return Ok(None),
            }
        }
    }

    /// Whether a slot of this segment says that all earlier ones were durable when it was sealed.
    fn says_earlier(&self, header: &SegmentHeader) -> Result<bool, Error> {
        let later = self.table.add(&row(header))?;
        let mut said = false;
        read_slots(self.table, &later, 0, SLOTS, |_, opened| {
            said = opened.is_some_and(|(header, _)| header.flags & EARLIER != 0);
            !said
        })?;
        self.table.drop_segment(later.number);
        Ok(said)
    }

    /// Whether a later segment, which the log does not lead to, says that what it follows was durable.
    pub(crate) fn cut_off(&self, end: &End, successors: &Successors) -> Result<Option<Damage>, Error> {
        for header in successors.values().flatten().filter(|header| header.number > end.number) {
            let here = header.before == end.number && header.before_digest == digest(&end.salt);
            if here && header.before_end <= end.slots {
                continue;
            }
            if header.flags & AFTER_DURABLE != 0 || self.says_earlier(header)? {
                return Ok(Some(Damage {
                    file: segment::name(header.before),
                    segment: header.before,
                    slot: 0,
                    device: None,
                    offset: 0,
                    length: 0,
                    why: "it is missing or not as it was written, yet was durable".to_owned(),
                }));
            }
        }
        Ok(None)
    }
}
