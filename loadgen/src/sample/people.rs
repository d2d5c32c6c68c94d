//! Who visits the made-up site: fixed pairs of an address and a user agent.
//!
//! Owns: how many there are, where their addresses are from, and what they browse with.
//! Does not own: how often each of them comes.

use rand::RngExt;
use rand::rngs::StdRng;
use std::net::{Ipv4Addr, Ipv6Addr};

const PEOPLE: usize = 2_940;
const BOTS: usize = 60;

/// One visitor. Cheap to clone but for the address.
#[derive(Clone)]
pub(super) struct Visitor {
    pub(super) address: String,
    pub(super) agent: &'static str,
}

/// User agents of people, with weights.
const AGENTS: [(u32, &str); 14] = [
    (
        24,
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/122.0.0.0 Safari/537.36",
    ),
    (
        9,
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/122.0.0.0 Safari/537.36",
    ),
    (
        6,
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) \
         Version/17.3.1 Safari/605.1.15",
    ),
    (
        7,
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/122.0.0.0 Safari/537.36 Edg/122.0.2365.80",
    ),
    (5, "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:123.0) Gecko/20100101 Firefox/123.0"),
    (3, "Mozilla/5.0 (X11; Linux x86_64; rv:123.0) Gecko/20100101 Firefox/123.0"),
    (
        1,
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/121.0.0.0 Safari/537.36 OPR/107.0.0.0",
    ),
    (
        18,
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_3_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like \
         Gecko) Version/17.3.1 Mobile/15E148 Safari/604.1",
    ),
    (
        15,
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/122.0.0.0 \
         Mobile Safari/537.36",
    ),
    (
        3,
        "Mozilla/5.0 (Linux; Android 13; SAMSUNG SM-S911B) AppleWebKit/537.36 (KHTML, like Gecko) \
         SamsungBrowser/23.0 Chrome/115.0.0.0 Mobile Safari/537.36",
    ),
    (1, "Mozilla/5.0 (Android 14; Mobile; rv:123.0) Gecko/123.0 Firefox/123.0"),
    (
        4,
        "Mozilla/5.0 (iPad; CPU OS 16_7_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
         Version/16.6 Mobile/15E148 Safari/604.1",
    ),
    (
        3,
        "Mozilla/5.0 (Linux; Android 13; SM-X906C) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/122.0.0.0 Safari/537.36",
    ),
    (1, "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko"),
];

const BOT_AGENTS: [&str; 10] = [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) \
     Chrome/122.0.6261.69 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
    "Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "Feedly/1.0 (+http://www.feedly.com/fetcher.html; 12 subscribers)",
    "Mozilla/5.0 (compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
    "python-requests/2.31.0",
    "curl/8.5.0",
];

/// Everybody with a person in front of the screen.
pub(super) fn people(random: &mut StdRng) -> Vec<Visitor> {
    let mut people: Vec<Visitor> = Vec::with_capacity(PEOPLE);
    for _ in 0..PEOPLE {
        // Households and offices share an address, so that an address alone is no visitor.
        let shared =
            if random.random_bool(0.1) { people.last().map(|last| last.address.clone()) } else { None };
        let address = shared.unwrap_or_else(|| address(random));
        people.push(Visitor { address, agent: agent(random) });
    }
    people
}

/// All programs. Several run the same software from different addresses.
pub(super) fn bots(random: &mut StdRng) -> Vec<Visitor> {
    let bot = |nth: usize| Visitor { address: address(random), agent: BOT_AGENTS[nth % BOT_AGENTS.len()] };
    (0..BOTS).map(bot).collect()
}

/// From 198.18.0.0/15 (kept for benchmarks) or 2001:db8::/32 (kept for documentation).
fn address(random: &mut StdRng) -> String {
    let bits: u64 = random.random();
    if random.random_bool(0.08) {
        let network = (0x2001_0db8_u128 << 96) | (u128::from(bits >> 48) << 64);
        return Ipv6Addr::from(network | u128::from(bits & 0xffff_ffff)).to_string();
    }
    Ipv4Addr::from(0xc612_0000 | (bits as u32 & 0x0001_ffff)).to_string()
}

fn agent(random: &mut StdRng) -> &'static str {
    let total: u32 = AGENTS.iter().map(|(weight, _)| weight).sum();
    let mut left = random.random_range(0..total);
    for (weight, agent) in AGENTS {
        if left < weight {
            return agent;
        }
        left -= weight;
    }
    AGENTS[0].1
}
