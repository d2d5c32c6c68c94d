//! What others say.
//!
//! Owns: what each message leads to; in particular what is kept from `foca`, which would answer it badly: members of one's own
//! name, and members whose clock went back.
//! Does not own: what `foca` makes of the rest.

use super::{Course, Event, Now, Protocol};
use crate::identity::Identity;
use crate::message::{Envelope, MAX_NAMES, Message};
use crate::refusal::{Failure, Heard, Whose};
use crate::seal::Dropped;
use bytes::Buf as _;
use foca::{Codec as _, Header, PostcardCodec};
use std::net::SocketAddr;
use std::time::Duration;
use tidemark_rollup::member::{Incarnation, NodeId};

/// How long after it met others a member may still hear of its own former life from somebody who lags behind. A later life of
/// its name that it hears of afterwards is somebody else's.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// What is said of a member's own name.
struct Namesake {
    incarnation: Incarnation,
    gossip: SocketAddr,
    /// It spoke itself.
    speaks: bool,
    /// It is said to be there.
    present: bool,
}

/// A packet of `foca`.
struct Packet {
    header: Header<Identity>,
    updates: Vec<foca::Member<Identity>>,
}

impl Packet {
    /// All of a packet, where it is one from the first byte to the last.
    fn parse(mut data: &[u8]) -> Option<Self> {
        let header: Header<Identity> = PostcardCodec.decode_header(&mut data).ok()?;
        let count = if data.is_empty() { 0 } else { data.try_get_u16().ok()? };
        let mut updates = Vec::new();
        for _ in 0..count {
            updates.push(PostcardCodec.decode_member(&mut data).ok()?);
        }
        data.is_empty().then_some(Self { header, updates })
    }
}

impl Protocol {
    /// A message came.
    pub(crate) fn receive(&mut self, envelope: &Envelope, from: SocketAddr, now: Now) {
        if self.course != Course::Here {
            return;
        }
        let tells_facts = matches!(envelope.message, Message::Challenge(_) | Message::Facts(_));
        match self.refusals.whose(envelope.fingerprint) {
            // Nobody of the same facts has to be told them.
            Whose::Own if tells_facts => return self.count(Event::Dropped(Dropped::Rejected)),
            Whose::Own => self.refusals.met_the_same(),
            Whose::Agreeing if !tells_facts => {}
            Whose::Agreeing | Whose::Unknown => return self.hear_stranger(&envelope.message, from, now),
        }
        match &envelope.message {
            Message::Gossip(packet) => self.hear(packet, now),
            Message::Announce(packet) => match self.to_this_member(packet) {
                Some(packet) => self.hear(&packet, now),
                None => self.count(Event::Dropped(Dropped::Undecodable)),
            },
            Message::Outdated { id, incarnation, gossip } => {
                if *id == self.own().id {
                    let (incarnation, gossip) = (*incarnation, *gossip);
                    self.hear_of_namesake(
                        &Namesake { incarnation, gossip, speaks: false, present: true },
                        now,
                    );
                }
            }
            Message::Suspected { life, rumour } => self.object(*life, *rumour, from, now),
            Message::Missing(ids) => self.answer_who_left(ids, from),
            Message::Left(ids) => {
                for id in ids.iter().take(MAX_NAMES) {
                    let here =
                        |member: &foca::Member<Identity>| member.id().id == *id && !member.id().is_gone();
                    if !self.foca.iter_members().any(here) {
                        self.roster.left(id);
                    }
                }
            }
            // They were dealt with above.
            Message::Challenge(_) | Message::Facts(_) => {}
        }
    }

    fn hear_stranger(&mut self, message: &Message, from: SocketAddr, now: Now) {
        if !matches!(message, Message::Challenge(_) | Message::Facts(_)) {
            self.count(Event::Dropped(Dropped::Facts));
        }
        let Heard { answer, said, met } = self.refusals.hear(message, from, self.established, now.instant);
        said.into_iter().for_each(|change| self.roster.say(change));
        if let Some(answer) = answer {
            self.send(from, answer);
        }
        if met {
            // What it said before came to nothing.
            self.announce_to(from);
        }
    }

    /// An announcement to whoever is here, as one to this member.
    fn to_this_member(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let Packet { header, updates } = Packet::parse(packet)?;
        (header.message == foca::Message::Announce && updates.is_empty()).then_some(())?;
        let mut bytes = Vec::new();
        let header = Header { dst: self.own().clone(), ..header };
        PostcardCodec.encode_header(&header, &mut bytes).ok()?;
        Some(bytes)
    }

    fn hear(&mut self, packet: &[u8], now: Now) {
        let Some(Packet { header, updates }) = Packet::parse(packet) else {
            return self.count(Event::Dropped(Dropped::Undecodable));
        };
        let own = self.own().clone();
        if updates.iter().any(|update| *update.id() == own && update.state() == foca::State::Suspect) {
            self.count(Event::Suspected);
        }
        let updates = updates.iter().map(|update| (update.id(), false, update.state() != foca::State::Down));
        for (identity, speaks, present) in [(&header.src, true, true)].into_iter().chain(updates) {
            if identity.id == own.id {
                let Identity { incarnation, gossip, .. } = *identity;
                let present = present && !identity.is_gone();
                self.hear_of_namesake(&Namesake { incarnation, gossip, speaks, present }, now);
            }
        }
        if self.is_outdated(&header.src) || self.course != Course::Here {
            return;
        }
        self.tell_of_suspicion(&header);
        if let Err(error) = self.foca.handle_data(packet, &mut self.runtime) {
            tracing::debug!("a packet from {} came to nothing: {error}", header.src.id);
            self.count(Event::Dropped(Dropped::Rejected));
        }
        self.settle(now.instant);
    }

    /// Tells a member that speaks, and is suspected nevertheless, that it is. `foca` passes a suspicion on ten times and then no
    /// more: where those are lost, with whatever made the member seem silent, it would be given up while it answers.
    fn tell_of_suspicion(&mut self, header: &Header<Identity>) {
        let suspected = |member: &&foca::Member<Identity>| {
            member.id() == &header.src && member.state() == foca::State::Suspect
        };
        let rumour = self.foca.iter_members().find(suspected).map(foca::Member::incarnation);
        if let Some(rumour) = rumour.filter(|rumour| header.src_incarnation <= *rumour) {
            let life = header.src.incarnation;
            self.send(header.src.gossip, Message::Suspected { life, rumour });
        }
    }

    /// Objects to a suspicion: to some by gossip, and directly to the one who told of it.
    fn object(&mut self, life: Incarnation, rumour: u16, from: SocketAddr, now: Now) {
        let own = self.own().clone();
        if life != own.incarnation {
            return;
        }
        self.count(Event::Suspected);
        let suspicion = foca::Member::new(own, rumour, foca::State::Suspect);
        if let Err(error) = self.foca.apply_many([suspicion].into_iter(), true, &mut self.runtime) {
            tracing::debug!("cannot object to a suspicion: {error}");
        }
        self.settle(now.instant);
        self.announce_to(from);
    }

    /// Whether the sender has gone by a later identity; then it is told. `foca` would tell it to begin again, and it would, one
    /// incarnation at a time: a clock that went back an hour is 3,600,000 of them.
    fn is_outdated(&mut self, sender: &Identity) -> bool {
        let latest = match sender.id == self.own().id {
            true => self.own(),
            false => match self.foca.iter_membership_state().find(|member| member.id().id == sender.id) {
                Some(member) => member.id(),
                None => return false,
            },
        };
        if latest.incarnation <= sender.incarnation {
            return false;
        }
        let (incarnation, gossip) = (latest.incarnation, latest.gossip);
        if sender.gossip == self.own().gossip {
            return true;
        }
        self.send(sender.gossip, Message::Outdated { id: sender.id.clone(), incarnation, gossip });
        true
    }

    /// A former life of this member, which it has to go above; or another member of the same name, which began later.
    fn hear_of_namesake(&mut self, namesake: &Namesake, now: Now) {
        let own = self.own();
        if (namesake.incarnation, namesake.gossip) <= (own.incarnation, own.gossip)
            || self.course != Course::Here
        {
            return;
        }
        let settled = self.established.is_some_and(|at| now.instant.duration_since(at) > SETTLED_AFTER);
        let elsewhere = namesake.gossip != own.gossip && namesake.present;
        match elsewhere && (namesake.speaks || settled) {
            true => self.fail(Failure::Duplicate { id: own.id.clone(), address: namesake.gossip }),
            false => self.jump(namesake.incarnation, now),
        }
    }

    fn answer_who_left(&mut self, ids: &[NodeId], from: SocketAddr) {
        let left: Vec<NodeId> = ids.iter().filter(|id| self.has_left(id)).cloned().collect();
        if !left.is_empty() {
            self.send(from, Message::Left(left));
        }
    }
}
