//! Made-up events.
//!
//! Owns: what each event of a run is: a function of the profile, the seed, the producer, and the event's number and moment.
//! Does not own: the settings (`profile`), when events are due (`schedule`).

use super::profile::Profile;
use bytes::Bytes;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, LogNormal, Zipf};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::time::EventTime;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The dimensions that events have, in the order in which [`Made::values`] tells their values.
pub const DIMENSIONS: [&str; 5] = ["referrer", "channel", "country", "device", "visitor_type"];

const CHANNELS: [&str; 4] = ["search", "social", "link", "direct"];
const DEVICES: [&str; 3] = ["mobile", "desktop", "tablet"];
const VISITOR_TYPES: [&str; 2] = ["returning", "new"];
const MAX_ENGAGED_MS: i64 = 60_000;
const MAX_LOAD_MS: f64 = 600_000.0;

/// The names that events of a run are made of.
#[derive(Debug)]
pub struct Names {
    sites: Vec<Bytes>,
    urls: Vec<Bytes>,
    /// By dimension.
    values: [Vec<Bytes>; 5],
    keys: [Bytes; 5],
    load_ms: Bytes,
    engaged_ms: Bytes,
    kind: Bytes,
}

impl Names {
    /// Those of a profile. `run` is in the name of each site, so that runs do not count into one another.
    pub fn new(profile: &Profile, run: &str) -> Self {
        let fixed =
            |names: &[&'static str]| names.iter().map(|name| Bytes::from_static(name.as_bytes())).collect();
        let referrer = |number| Bytes::from(format!("www.referrer-{number}.example"));
        let country = |number: u32| {
            let letter = |number: u32| char::from(b'A' + (number % 26) as u8);
            Bytes::from(format!("{}{}", letter(number / 26), letter(number)))
        };
        Self {
            sites: (0..profile.sites).map(|site| format!("site-{site}.{run}.example").into()).collect(),
            urls: (0..profile.urls)
                .map(|url| format!("/stories/2026/some-words-of-a-title-{url}").into())
                .collect(),
            values: [
                (0..profile.referrers).map(referrer).collect(),
                fixed(&CHANNELS),
                (0..profile.countries).map(country).collect(),
                fixed(&DEVICES),
                fixed(&VISITOR_TYPES),
            ],
            keys: DIMENSIONS.map(|name| Bytes::from_static(name.as_bytes())),
            load_ms: Bytes::from_static(b"load_ms"),
            engaged_ms: Bytes::from_static(b"engaged_ms"),
            kind: Bytes::from_static(b"view"),
        }
    }

    /// How many sites there are.
    pub fn site_count(&self) -> u32 {
        self.sites.len() as u32
    }

    /// The name of a site.
    pub fn site(&self, site: u32) -> &str {
        text(&self.sites[site as usize])
    }

    /// The URLs of a site, as their numbers and names.
    pub fn urls_of(&self, site: u32) -> impl Iterator<Item = (u32, &str)> {
        let numbered = (0_u32..).zip(&self.urls).skip(site as usize).step_by(self.sites.len());
        numbered.map(|(number, url)| (number, text(url)))
    }

    /// The values of a dimension.
    pub fn values(&self, dimension: usize) -> impl Iterator<Item = &str> {
        self.values[dimension].iter().map(text)
    }
}

fn text(bytes: &Bytes) -> &str {
    // Names are made of strings.
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// An event, in numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Made {
    /// Its URL; URLs belong to sites in turn.
    pub url: u32,
    /// Positions of its dimensions' values.
    pub values: [u16; 5],
    /// Hash of its visitor.
    pub visitor: u64,
    /// Its load time, milliseconds.
    pub load_ms: i64,
    /// How long it was read, milliseconds.
    pub engaged_ms: i64,
    /// When it happened.
    pub time: EventTime,
}

impl Made {
    /// Its site.
    pub fn site(&self, names: &Names) -> u32 {
        self.url % names.site_count()
    }

    /// As it is sent.
    pub fn to_event(&self, names: &Names) -> v1::Event {
        let dimension = |(at, &value): (usize, &u16)| v1::event::DimensionsEntry {
            key: names.keys[at].clone(),
            value: names.values[at][value as usize].clone(),
        };
        let value = |key: &Bytes, value| v1::event::ValuesEntry { key: key.clone(), value };
        v1::Event {
            site: names.sites[self.site(names) as usize].clone(),
            url: names.urls[self.url as usize].clone(),
            time_ms: self.time.as_unix_ms(),
            kind: names.kind.clone(),
            visitor: Bytes::new(),
            visitor_hash: self.visitor,
            dimensions: self.values.iter().enumerate().map(dimension).collect(),
            values: vec![value(&names.load_ms, self.load_ms), value(&names.engaged_ms, self.engaged_ms)],
        }
    }
}

/// The events of one producer. Each is a function of its number, so that it does not matter which are sent together.
#[derive(Debug)]
pub struct Traffic {
    profile: Profile,
    ranks: Zipf<f64>,
    load_ms: LogNormal<f64>,
    seed: u64,
    producer: u32,
}

impl Traffic {
    /// Of the producer of this number.
    ///
    /// # Panics
    /// Where the profile was not [checked](Profile::check).
    pub fn new(profile: &Profile, seed: u64, producer: u32) -> Self {
        let ranks = Zipf::new(f64::from(profile.urls), profile.url_exponent);
        let load_ms = LogNormal::new(profile.load_ms_median.ln(), profile.load_ms_sigma);
        let (Ok(ranks), Ok(load_ms)) = (ranks, load_ms) else { unreachable!("the profile is checked") };
        Self { profile: profile.clone(), ranks, load_ms, seed, producer }
    }

    /// The event of this number, which is due at `due`.
    pub fn event(&self, number: u64, is_viral: bool, due: EventTime) -> Made {
        let mut random = self.random(number);
        let url = self.url(is_viral, &mut random);
        let is_new = random.random_bool(self.profile.new_visitors);
        let visitor = match is_new {
            // Other producers' new visitors are others.
            true => hash(u64::from(self.producer) << 40 | number, self.seed),
            false => hash(random.random_range(0..self.profile.visitors), !self.seed),
        };
        let referrer = random.random_range(0..self.profile.referrers) as u16;
        let values = [
            referrer,
            referrer % CHANNELS.len() as u16,
            random.random_range(0..self.profile.countries) as u16,
            random.random_range(0..DEVICES.len()) as u16,
            u16::from(is_new),
        ];
        let is_late = random.random_bool(self.profile.late);
        let by = if is_late { self.profile.late_by.mul_f64(random.random()) } else { Duration::ZERO };
        Made {
            url,
            values,
            visitor,
            load_ms: self.load_ms.sample(&mut random).min(MAX_LOAD_MS) as i64,
            engaged_ms: random.random_range(0..MAX_ENGAGED_MS),
            time: due.minus(by),
        }
    }

    /// Whether the batch that begins with the event of this number is to be sent once more.
    pub fn is_sent_twice(&self, first: u64) -> bool {
        self.random(!first).random_bool(self.profile.duplicates)
    }

    fn random(&self, number: u64) -> Xoshiro256PlusPlus {
        let of_producer = self.seed ^ u64::from(self.producer).rotate_left(32);
        Xoshiro256PlusPlus::seed_from_u64(hash(number, of_producer))
    }

    fn url(&self, is_viral: bool, random: &mut Xoshiro256PlusPlus) -> u32 {
        let viral = self.profile.viral.filter(|_| is_viral);
        match viral.is_some_and(|viral| random.random_bool(viral.share)) {
            // One in the middle, which nobody wanted before.
            true => self.profile.urls / 2,
            false => self.ranks.sample(random) as u32 - 1,
        }
    }
}

/// Never 0, which is nobody.
fn hash(number: u64, seed: u64) -> u64 {
    xxh3_64_with_seed(&number.to_le_bytes(), seed).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::profile::Viral;

    const NOW: EventTime = EventTime::from_unix_ms(1_700_000_000_000);

    fn made(profile: &Profile, producer: u32, events: u64) -> Vec<Made> {
        let traffic = Traffic::new(profile, 7, producer);
        (0..events).map(|number| traffic.event(number, false, NOW)).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_events_and_other_producers_make_others() {
        let profile = Profile::default();
        assert_eq!(made(&profile, 0, 1000), made(&profile, 0, 1000));
        assert_ne!(made(&profile, 0, 1000), made(&profile, 1, 1000));
        let traffic = Traffic::new(&profile, 7, 0);
        assert_eq!(traffic.event(999, false, NOW), made(&profile, 0, 1000)[999], "in whatever order");
    }

    #[test]
    fn shares_are_as_the_profile_says() {
        let profile = Profile { late: 0.2, ..Profile::default() };
        let events = made(&profile, 0, 20_000);
        let share =
            |is: &dyn Fn(&Made) -> bool| events.iter().filter(|made| is(made)).count() as f64 / 20_000.0;
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 0.02, "{found} instead of {expected}")
        };
        near(share(&|made| made.time < NOW), 0.2);
        near(share(&|made| made.values[4] == 1), 0.3);
        near(share(&|made| made.load_ms < 400), 0.5);
        // Of a Zipf distribution of exponent 1.1 over 200,000.
        let weight: f64 = (1..=200_000).map(|rank| f64::from(rank).powf(-1.1)).sum();
        near(share(&|made| made.url == 0), 1.0 / weight);
        assert!(events.iter().all(|made| made.time >= NOW.minus(profile.late_by) && made.visitor != 0));
    }

    #[test]
    fn every_exponent_that_a_profile_may_have_gives_urls_that_there_are() {
        for url_exponent in [0.0, 0.5, 1.0, 10.0] {
            for urls in [1, 2, 1_000] {
                let profile =
                    Profile { sites: 1, urls, url_exponent, load_ms_sigma: 0.0, ..Profile::default() };
                assert_eq!(profile.check(), Ok(()));
                assert!(made(&profile, 0, 2_000).iter().all(|made| made.url < urls), "{urls} {url_exponent}");
            }
        }
    }

    #[test]
    fn a_viral_url_takes_its_share_while_it_is_viral() {
        let profile = Profile { viral: Some(Viral::default()), ..Profile::default() };
        let traffic = Traffic::new(&profile, 7, 0);
        let hits = |is_viral| {
            (0..1_000).filter(|&number| traffic.event(number, is_viral, NOW).url == 100_000).count()
        };
        assert!(hits(false) < 5 && (430..570).contains(&hits(true)), "{} and {}", hits(false), hits(true));
    }

    #[test]
    fn an_event_is_spelled_with_the_names_of_its_numbers() {
        let profile = Profile { sites: 2, urls: 4, referrers: 3, countries: 30, ..Profile::default() };
        let names = Names::new(&profile, "r1");
        let made =
            Made { url: 3, values: [2, 1, 27, 0, 1], visitor: 5, load_ms: 10, engaged_ms: 20, time: NOW };
        let event = made.to_event(&names);
        let spelled: Vec<&[u8]> = event.dimensions.iter().map(|entry| entry.value.as_ref()).collect();
        let expected: [&[u8]; 5] = [b"www.referrer-2.example", b"social", b"BB", b"mobile", b"new"];
        assert_eq!((event.site.as_ref(), spelled), (b"site-1.r1.example".as_slice(), expected.to_vec()));
        let urls: Vec<u32> = names.urls_of(1).map(|(number, _)| number).collect();
        assert_eq!((urls, names.site(1)), (vec![1, 3], "site-1.r1.example"));
    }
}
