//! The disk of the simulated worlds behind the store's traits.

use std::sync::{Arc, Mutex, MutexGuard};

use switchyard::{
    names::RoomKey,
    store::{
        Answer, Backend, Batch, Entry, KnownMessage, KnownOrigin, Loaded, Note, Page, PageQuery, Reader,
        Request, Retention, StoreError, Writer,
    },
};
use switchyard_signaling::event::Origin;

use crate::{
    disk::{Disk, Fault},
    suite::suite,
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Model(Arc<Mutex<Disk>>);

impl Model {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.disk().set_fault(fault);
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.disk().fault()
    }

    fn ask(&self, request: &Request) -> Answer {
        self.disk().handle(request, 0).unwrap()
    }
}

impl Backend for Model {
    fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        Ok(Box::new(self.clone()))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        Ok(Box::new(self.clone()))
    }

    fn size(&self) -> Option<u64> {
        None
    }
}

impl Writer for Model {
    fn load(&mut self, keys: &[RoomKey]) -> Result<Vec<Loaded>, StoreError> {
        Ok(keys.iter().map(|key| self.disk().load(key, 0)).collect())
    }

    fn raise_epoch(&mut self, key: &RoomKey) -> Result<Loaded, StoreError> {
        Ok(self.disk().load(key, 1))
    }

    fn try_commit(&mut self, batches: &[Batch], now: u64) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        Ok(batches.iter().map(|batch| self.disk().commit_alone(batch, now)).collect())
    }

    fn note(&mut self, notes: &[Note]) -> Result<(), StoreError> {
        for note in notes {
            self.disk().handle(&Request::Note(note.clone()), 0);
        }
        Ok(())
    }

    fn retain(&mut self, retention: &Retention, now: u64) -> Result<bool, StoreError> {
        self.disk().retain(*retention, now);
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        self.disk().sync();
        Ok(())
    }
}

macro_rules! answer {
    ($answer:expr, $kind:ident) => {
        match $answer {
            Answer::$kind(answer) => answer,
            other => panic!("{other:?}"),
        }
    };
}

impl Reader for Model {
    fn events(
        &mut self,
        key: &RoomKey,
        after: u64,
        to: u64,
        bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        answer!(self.ask(&Request::Events { key: key.clone(), after, to, bytes }), Events)
    }

    fn digest(&mut self, key: &RoomKey, seq: u64) -> Result<Option<u64>, StoreError> {
        answer!(self.ask(&Request::Digest(key.clone(), seq)), Digest)
    }

    fn origin(&mut self, key: &RoomKey, origin: Origin) -> Result<KnownOrigin, StoreError> {
        answer!(self.ask(&Request::Origin(key.clone(), origin)), Origin)
    }

    fn message(&mut self, key: &RoomKey, seq: u64) -> Result<Option<KnownMessage>, StoreError> {
        answer!(self.ask(&Request::Message(key.clone(), seq)), Message)
    }

    fn fields(&mut self, key: &RoomKey) -> Result<Vec<(String, usize)>, StoreError> {
        answer!(self.ask(&Request::Fields(key.clone())), Fields)
    }

    fn page(&mut self, query: &PageQuery) -> Result<Page, StoreError> {
        answer!(self.ask(&Request::Page(query.clone())), Page)
    }

    fn tidy(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

suite!(|test: fn(&dyn Backend)| test(&Model::default()));

mod crashes {
    use super::{Model, Writer as _};
    use crate::{
        disk::Fault,
        script::{Script, chat, key, load},
    };
    use switchyard::store::{Answer, Request, StoreError};

    #[test]
    fn a_crash_takes_what_was_not_synced_and_nothing_else() {
        let mut model = Model::default();
        let mut room = Script::load(&mut model, "lab");
        room.commit(&mut model, vec![chat("one")]);
        model.disk().sync();
        for text in ["two", "three", "four"] {
            room.commit(&mut model, vec![chat(text)]);
        }
        assert_eq!(model.disk().unsynced(), 3);
        model.disk().crash(1);
        let loaded = load(&mut model, "lab");
        assert_eq!(loaded.head.seq, 2, "the first of three happened to be on the disk");
        assert_eq!(loaded.fence, 2);
    }

    #[test]
    fn a_restored_backup_has_lost_the_end_of_the_log() {
        let mut model = Model::default();
        let mut room = Script::load(&mut model, "lab");
        room.commit(&mut model, vec![chat("one")]);
        model.disk().sync();
        let backup = model.disk().backup();
        room.commit(&mut model, vec![chat("two")]);
        model.disk().sync();
        model.disk().restore(&backup);
        assert_eq!(load(&mut model, "lab").head.seq, 1);
        assert_eq!(model.raise_epoch(&key("lab")).unwrap().head.epoch, 1);
    }

    #[test]
    fn a_commit_whose_answer_is_lost_is_there_and_the_room_has_to_be_loaded() {
        let mut model = Model::default();
        let mut room = Script::load(&mut model, "lab");
        model.disk().set_fault(Some(Fault::AnswersLost));
        let one = model.ask(&Request::Commit(room.batch(vec![chat("one")])));
        assert!(matches!(one, Answer::Committed(Err(StoreError::Unavailable(_)))));
        model.disk().set_fault(None);
        let two = model.ask(&Request::Commit(room.batch(vec![chat("two")])));
        assert_eq!(two, Answer::Committed(Err(StoreError::HeadMoved)), "although its head fits");
        assert_eq!(load(&mut model, "lab").head.seq, 1);
        for (fault, reads) in [(Fault::Full, true), (Fault::Away, false)] {
            model.disk().set_fault(Some(fault));
            let load = model.ask(&Request::Load(key("lab")));
            assert!(matches!(load, Answer::Loaded(Err(StoreError::Unavailable(_)))));
            let read = model.ask(&Request::Digest(key("lab"), 1));
            assert_eq!(matches!(read, Answer::Digest(Ok(Some(_)))), reads, "{fault:?}");
        }
    }
}
