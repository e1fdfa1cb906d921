//! The decisions of the script in Redis.
use crate::state::{CALLS, Data, Node, Record};
use crate::variant::{Fence, Variant};

impl Node {
    /// Whether a batch of that epoch would be applied here.
    pub fn accepts(&self, epoch: u8, fence: Fence) -> bool {
        let epoch_in_data = self.data.epoch == epoch;
        let script = epoch_in_data && self.script == epoch;
        match fence {
            Fence::None => true,
            Fence::EpochInData => epoch_in_data,
            Fence::Script => script,
            Fence::ScriptAndReign => script && self.reign == epoch,
        }
    }

    /// This server is the other's replica now: the data are the other's, the process lives on.
    pub fn demote(&mut self, master: Data) {
        self.data = master;
        self.reign = 0;
    }
}

impl Data {
    pub fn of_epoch(epoch: u8) -> Self {
        Self { epoch, ..Self::default() }
    }

    pub fn has_credit(&self) -> bool {
        self.records.iter().map(|record| record.debit()).sum::<u8>() < self.granted
    }

    pub fn is_synced(&self) -> bool {
        self.outbox == [Record::Unknown; CALLS]
    }

    /// Places a hold. Returns whether it stands; a refusal changes nothing.
    pub fn hold(&mut self, call: usize) -> bool {
        if self.records[call] == Record::Unknown && self.has_credit() {
            self.write(call, Record::Held);
        }
        self.records[call] == Record::Held
    }

    /// Extends a hold by a second credit. Returns whether it did; a refusal changes nothing.
    pub fn extend(&mut self, call: usize) -> bool {
        let is_granted = self.records[call] == Record::Held && self.has_credit();
        if is_granted {
            self.write(call, Record::HeldTwo);
        }
        is_granted
    }

    /// A capture of one credit or two is never refused, even above its hold; without its hold it is a
    /// late one.
    pub fn capture(&mut self, call: usize, credits: u8) -> Record {
        let captured = if credits == 2 { Record::CapturedTwo } else { Record::Captured };
        match self.records[call] {
            record if record.is_live() => self.write(call, captured),
            Record::Unknown | Record::Released => self.write(call, captured.late()),
            _ => {}
        }
        self.records[call]
    }

    pub fn release(&mut self, call: usize, variant: &Variant) -> Record {
        match self.records[call] {
            record if record.is_live() => self.write(call, Record::Released),
            Record::Unknown if variant.tombstones => self.write(call, Record::Released),
            _ => {}
        }
        self.records[call]
    }

    /// The account leaves Redis, the stream stays.
    pub fn forget_account(&mut self) {
        self.is_hot = false;
        self.granted = 0;
        self.records = Default::default();
    }

    fn write(&mut self, call: usize, record: Record) {
        self.records[call] = record;
        self.outbox[call] = record;
    }
}
