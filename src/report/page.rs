//! The page: one file of HTML that needs nothing else, and can be read without its script.

use super::bins::{Spread, limits};
use super::chart::{self, Addresses};
use super::data::{Said, json};
use super::held::{self, Held};
use super::planned::{Placed, Planned};
use super::survey::{Axis, Lived, Survey, Tallies, Tally};
use super::table::{
    Cell, Exact, ROWS, Table, bytes, more, number, put, share, short, site, some, span, turned,
};
use super::units::Span;
use crate::lifetime::picture::svg::{Bytes, COLOURS, Escaped, Grouped};

const HTML: &str = include_str!("page/report.html");
const STYLE: &str = include_str!("page/report.css");
const SCRIPT: &str = include_str!("page/report.js");

/// The page.
pub(super) fn page(said: &Said<'_>) -> String {
    let mut body = String::with_capacity(1 << 20);
    figures(said, &mut body);
    actions(said, &mut body);
    over_time(said, &mut body);
    peak(said, &mut body);
    maps(said, &mut body);
    traffic(said, &mut body);
    sizes(said, &mut body);
    names(said, &mut body);
    left(said, &mut body);
    faults(said, &mut body);
    notes(said, &mut body);
    let colours = |which: fn(&(&'static str, &'static str)) -> &'static str| -> String {
        let one = |(at, colour): (usize, &(&'static str, &'static str))| {
            format!("--c{at}:{};", which(colour))
        };
        COLOURS.iter().enumerate().map(one).collect()
    };
    let (light, dark) = (colours(|(light, _)| light), colours(|(_, dark)| dark));
    let style = STYLE.replace("--light:0;", &light).replace("--dark:0;", &dark);
    fill(HTML, |name| match name {
        "title" => Escaped(said.title).to_string(),
        "trace" => Escaped(said.trace).to_string(),
        "style" => style.clone(),
        "script" => SCRIPT.to_owned(),
        "summary" => summary(said),
        "body" => body.clone(),
        "data" => json(said),
        _ => String::new(),
    })
}

/// `template` with each `{{name}}` replaced. What is put in is not looked at again.
fn fill(template: &str, with: impl Fn(&str) -> String) -> String {
    let mut page = String::with_capacity(2 << 20);
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("{{") {
        let (name, behind) = behind.split_once("}}").unwrap_or((behind, ""));
        page.push_str(before);
        page.push_str(&with(name));
        rest = behind;
    }
    page.push_str(rest);
    page
}

fn summary(said: &Said<'_>) -> String {
    let survey = said.survey;
    let count = |tallies: &Tallies, one: &str| {
        let count = tallies.all.len() as u64;
        format!("{} {one}{}", Grouped(count), if count == 1 { "" } else { "s" })
    };
    let mut text = format!(
        "{}, {}, {}",
        Span(Axis::Events, survey.events),
        count(&survey.threads, "thread"),
        count(&survey.streams, "stream")
    );
    if survey.axis == Axis::Time {
        put!(text, ", {}", Span(Axis::Time, survey.duration));
    }
    if !said.whole {
        text.push_str("; the trace goes on, and was read so far");
    }
    text
}

fn figures(said: &Said<'_>, to: &mut String) {
    let survey = said.survey;
    let peak = &survey.peak;
    let mut figure = |name: &str, value: String, note: String| {
        put!(to, "<div><dt>{name}</dt><dd>{value}</dd><dd class=\"note\">{note}</dd></div>\n");
    };
    figure(
        "peak of live bytes",
        Exact(peak.live).to_string(),
        format!("{} blocks, at {}", Grouped(peak.blocks), Span(survey.axis, peak.at)),
    );
    let allocated = peak.allocated[survey.device];
    figure("allocated for them", Exact(allocated).to_string(), above(allocated, peak.live));
    let pages = survey.most_pages;
    figure("on pages, at the most", Exact(pages).to_string(), above(pages, peak.live));
    if let Planned::Plan(plan) = said.planned {
        figure("arena of a plan", Exact(plan.arena).to_string(), above(plan.arena, peak.live));
    }
    if let Some(reserved) = survey.reserved {
        let note = match reserved.refused {
            0 => above(reserved.most, peak.live),
            1 => String::from("1 allocation had no memory there"),
            refused => format!("{} allocations had no memory there", Grouped(refused)),
        };
        figure("reserved by a pool", Exact(reserved.most).to_string(), note);
    }
    let left: u64 =
        survey.left.iter().fold(0, |sum: u64, lived| sum.saturating_add(lived.block.size));
    let blocks = survey.left.len() as u64;
    figure("live at the end", Exact(left).to_string(), format!("{} blocks", Grouped(blocks)));
    let failed = survey.failures;
    if failed > 0 {
        figure(
            "failed allocations",
            Grouped(failed).to_string(),
            format!("largest {}", Exact(survey.largest_failure)),
        );
    }
    let all = std::mem::take(to);
    put!(to, "<dl class=\"figures\">\n{all}</dl>\n");
}

fn above(bytes: u64, peak: u64) -> String {
    match (bytes.checked_sub(peak), peak) {
        (Some(0), _) => String::from("exactly the peak"),
        (Some(over), 1..) if over < peak / 1000 => String::from("less than 0.1 % above the peak"),
        (Some(over), 1..) => format!("{:.1} % above the peak", 100.0 * over as f64 / peak as f64),
        _ => String::new(),
    }
}

fn actions(said: &Said<'_>, to: &mut String) {
    put!(to, "<section id=\"do\"><h2>What to do</h2>\n");
    if said.actions.is_empty() {
        put!(to, "<p>Nothing stands out.</p>");
    } else {
        put!(to, "<ol>");
        for action in said.actions {
            put!(
                to,
                "<li><b>{}</b> {} <span class=\"advice\">{}</span></li>\n",
                Exact(action.bytes),
                Escaped(&action.found),
                Escaped(&action.advice)
            );
        }
        put!(to, "</ol>");
    }
    put!(to, "</section>\n");
}

fn swatch(class: &str, text: &str, to: &mut String) {
    put!(
        to,
        "<li><svg class=\"swatch\" viewBox=\"0 0 16 12\" aria-hidden=\"true\"><path \
         class=\"{class}\" d=\"{}\"/></svg>{text}</li>",
        if class.starts_with('l') { "M0 6H16" } else { "M0 0h16v12h-16z" }
    );
}

fn over_time(said: &Said<'_>, to: &mut String) {
    let survey = said.survey;
    put!(to, "<section id=\"time\"><h2>Bytes over time</h2>\n<ul class=\"key\">");
    swatch("pages", "on pages", to);
    swatch("rounded", "allocated", to);
    for at in 0..said.groups.len() {
        let name = chart::group_name(said.groups, at);
        swatch(&format!("c{}", chart::colour(said.groups, at)), &name, to);
    }
    swatch("l least", "least live", to);
    if survey.reserved.is_some() {
        swatch("l reserved", "reserved by a pool that did the same", to);
    }
    put!(to, "</ul>\n");
    chart::bytes(survey, said.groups, to);
    put!(
        to,
        "<p class=\"note\">Live bytes by size of block, in each stretch of {} when most were \
         live; in front of what they were rounded to, and of the pages that they were on.</p>\n",
        Span(survey.axis, survey.series.width)
    );
    put!(to, "<h3>Unused share of pages that hold a live block</h3>\n");
    chart::unused(survey, to);
    put!(to, "<h3>Allocations per {}</h3>\n", Span(survey.axis, survey.series.width));
    chart::rate(survey, to);
    put!(to, "</section>\n");
}

/// Who asked for `blocks`, which have so many bytes; nothing where the trace does not tell.
fn by_site(survey: &Survey, blocks: &[Lived], all: u64, to: &mut String) {
    if !survey.has_sites() {
        return;
    }
    let sums = held::by_place(blocks, |lived| lived.block.site);
    let row = |&(place, (blocks, held)): &(u32, (u64, u64))| {
        vec![site(survey, place), number(blocks), bytes(held), share(held, all)]
    };
    Table { name: "By call site", columns: &["call site", "blocks", "bytes", "share"] }
        .write(sums.iter().take(ROWS).map(row), to);
    more(sums.len(), "call sites", to);
}

fn peak(said: &Said<'_>, to: &mut String) {
    let survey = said.survey;
    let peak = &survey.peak;
    put!(to, "<section id=\"peak\"><h2>Who held the peak</h2>\n");
    put!(
        to,
        "<p>{} in {} blocks, at {}, event {}.</p>\n",
        Exact(peak.live),
        Grouped(peak.blocks),
        Span(survey.axis, peak.at),
        Grouped(peak.event)
    );
    by_site(survey, &survey.holders, peak.live, to);
    let columns = [
        "size",
        "blocks",
        "bytes",
        "share",
        "lived, median",
        "at the end",
        "first at",
        "streams",
        "threads",
    ];
    let row = |held: &Held| {
        vec![
            bytes(held.size),
            number(held.blocks),
            bytes(held.bytes),
            share(held.bytes, peak.live),
            span(survey.axis, held.lived.quantile(0.5)),
            number(held.left),
            span(survey.axis, Some(held.oldest)),
            some(&survey.streams, &held.streams, true),
            some(&survey.threads, &held.threads, false),
        ]
    };
    Table { name: "By size", columns: &columns }.write(said.holders.iter().take(ROWS).map(row), to);
    more(said.holders.len(), "sizes", to);
    let by = |of| held::by_place(&survey.holders, of);
    for (name, tallies, sums, hexadecimal) in [
        ("By stream", &survey.streams, by(|lived| lived.block.stream), true),
        ("By thread", &survey.threads, by(|lived| lived.block.thread), false),
    ] {
        if sums.len() < 2 {
            continue;
        }
        let what = if hexadecimal { "stream" } else { "thread" };
        let row = |&(place, (blocks, held)): &(u32, (u64, u64))| {
            vec![
                some(tallies, &[place], hexadecimal),
                number(blocks),
                bytes(held),
                share(held, peak.live),
            ]
        };
        Table { name, columns: &[what, "blocks", "bytes", "share"] }
            .write(sums.iter().take(ROWS).map(row), to);
        more(sums.len(), "more", to);
    }
    let sited = survey.has_sites();
    let row = |lived: &Lived| {
        let block = &lived.block;
        let mut row = vec![
            bytes(block.size),
            (format!("<code>0x{:x}</code>", block.address), block.address as f64),
            span(survey.axis, Some(block.from)),
            match lived.to {
                Some(to) => span(survey.axis, Some(to - block.from)),
                None => (String::from("to the end"), f64::MAX),
            },
            some(&survey.streams, &[block.stream], true),
            some(&survey.threads, &[block.thread], false),
        ];
        row.extend(sited.then(|| site(survey, block.site)));
        row
    };
    let columns = ["size", "address", "from", "lived", "stream", "thread", "call site"];
    let columns = if sited { &columns[..] } else { &columns[..6] };
    Table { name: "The largest blocks", columns }
        .write(survey.holders.iter().take(12).map(row), to);
    put!(to, "</section>\n");
}

fn maps(said: &Said<'_>, to: &mut String) {
    let survey = said.survey;
    let addresses = Addresses::of(survey);
    let plan: Option<&Placed> = match said.planned {
        Planned::Plan(plan) => Some(plan),
        _ => None,
    };
    let top = addresses.bytes().max(plan.map_or(0, |plan| plan.arena)).max(1);
    put!(to, "<section id=\"maps\"><h2>Addresses over time</h2>\n");
    put!(to, "<h3>As recorded: {} of addresses</h3>\n", Exact(addresses.bytes()));
    chart::recorded(survey, &addresses, said.groups, top, to);
    put!(
        to,
        "<p class=\"note\">The {} largest blocks by bytes and time in the colours of their size; \
         shades are what all others cover. Addresses in which nothing ever lived are left out, at \
         the thin lines.</p>\n",
        Grouped(survey.shapes.len() as u64)
    );
    match said.planned {
        Planned::Plan(plan) => {
            put!(to, "<h3>By a plan: an arena of {}</h3>\n", Exact(plan.arena));
            // Where addresses are hardly used again, it would be too small to see on their scale.
            let own = top / 4 > plan.arena;
            let scale = if own { " The scale is its own." } else { "" };
            let top = if own { plan.arena.max(1) } else { top };
            chart::planned(survey, plan, said.groups, top, to);
            let quality = if plan.optimal { "no plan is smaller" } else { "the best so far" };
            put!(
                to,
                "<p class=\"note\">Found in {}; {quality}. No arena can be below {}. Sizes are \
                 rounded up to {} bytes.{scale}</p>\n",
                Span(Axis::Time, u64::try_from(plan.elapsed.as_nanos()).unwrap_or(u64::MAX)),
                Exact(plan.bound),
                plan.alignment
            );
        }
        Planned::TooMany => put!(
            to,
            "<p class=\"note\">There is no plan: the trace has more blocks than are planned for a \
             report.</p>\n"
        ),
        Planned::Refused(why) => {
            put!(to, "<p class=\"note\">There is no plan: {}.</p>\n", Escaped(why));
        }
        Planned::Nothing => {}
    }
    put!(to, "</section>\n");
}

fn traffic(said: &Said<'_>, to: &mut String) {
    let survey = said.survey;
    let mut all: Vec<(u64, &Tally)> =
        survey.sizes.all.iter().filter_map(|(size, tally)| Some(((*size)?, tally))).collect();
    all.sort_unstable_by_key(|(size, tally)| (std::cmp::Reverse(tally.bytes), *size));
    put!(to, "<section id=\"traffic\"><h2>What is asked for most</h2>\n");
    let row = |first: Cell, tally: &Tally| {
        vec![
            first,
            number(tally.allocations),
            bytes(short(tally.bytes)),
            share(short(tally.bytes), short(survey.requested)),
            number(tally.most),
            bytes(short(tally.most_bytes)),
            turned(tally),
        ]
    };
    let columns = |first| {
        [
            first,
            "allocations",
            "bytes",
            "share",
            "blocks at a time",
            "bytes at a time",
            "turned over",
        ]
    };
    Table { name: "Sizes by bytes", columns: &columns("size") }
        .write(all.iter().take(ROWS).map(|(size, tally)| row(bytes(*size), tally)), to);
    let told_apart = survey.sizes.all.len() == all.len();
    more(all.len(), if told_apart { "sizes" } else { "sizes and more" }, to);
    if survey.has_sites() {
        let mut all: Vec<(u32, &Tally)> =
            (0..).zip(survey.sites.all.iter().map(|(_, tally)| tally)).collect();
        all.sort_unstable_by_key(|(place, tally)| (std::cmp::Reverse(tally.bytes), *place));
        let rows = all.iter().take(ROWS).map(|(place, tally)| row(site(survey, *place), tally));
        Table { name: "Call sites by bytes", columns: &columns("call site") }.write(rows, to);
        more(all.len(), "call sites", to);
    }
    put!(to, "</section>\n");
}

fn sizes(said: &Said<'_>, to: &mut String) {
    let survey = said.survey;
    put!(to, "<section id=\"sizes\"><h2>Sizes</h2>\n");
    let all = survey.bins.iter().enumerate().filter(|(_, (tally, _))| tally.allocations > 0);
    let row = |(bin, (tally, lifetimes)): (usize, &(Tally, Spread))| {
        let (from, upto) = limits(bin);
        let at_peak =
            survey.holders.iter().filter(|lived| (from..=upto).contains(&lived.block.size));
        let at_peak = at_peak.fold(0u64, |sum, lived| sum.saturating_add(lived.block.size));
        vec![
            (format!("{} to {}", Bytes(from), Bytes(upto.saturating_add(1))), from as f64),
            number(tally.allocations),
            bytes(short(tally.bytes)),
            bytes(at_peak),
            bytes(short(tally.most_bytes)),
            turned(tally),
            span(survey.axis, lifetimes.quantile(0.5)),
            span(survey.axis, lifetimes.mean()),
            span(survey.axis, lifetimes.most()),
            bytes(short(tally.live_bytes)),
        ]
    };
    let columns = [
        "size",
        "allocations",
        "bytes",
        "at the peak",
        "at a time",
        "turned over",
        "lived, median",
        "mean",
        "longest",
        "at the end",
    ];
    Table { name: "By powers of two", columns: &columns }.write(all.map(row), to);
    put!(
        to,
        "<p class=\"note\">Medians are to an eighth. Blocks that live at the end have no lifetime \
         here.</p>\n"
    );
    put!(to, "</section>\n");
}

fn names(said: &Said<'_>, to: &mut String) {
    let survey = said.survey;
    put!(to, "<section id=\"streams\"><h2>Streams and threads</h2>\n");
    for (title, name, tallies, hexadecimal) in [
        ("Streams", "stream", &survey.streams, true),
        ("Threads", "thread", &survey.threads, false),
    ] {
        let mut all: Vec<(u32, &Tally)> =
            (0..).zip(tallies.all.iter().map(|(_, tally)| tally)).collect();
        all.sort_unstable_by_key(|(place, tally)| (std::cmp::Reverse(tally.bytes), *place));
        let row = |&(place, tally): &(u32, &Tally)| {
            vec![
                some(tallies, &[place], hexadecimal),
                number(tally.allocations),
                bytes(short(tally.bytes)),
                bytes(short(tally.most_bytes)),
                number(tally.foreign),
                bytes(short(tally.foreign_bytes)),
                number(tally.failures),
                bytes(short(tally.live_bytes)),
            ]
        };
        let columns = [
            name,
            "allocations",
            "bytes",
            "at a time",
            "others freed here",
            "their bytes",
            "failures",
            "at the end",
        ];
        Table { name: title, columns: &columns }.write(all.iter().take(ROWS).map(row), to);
        more(all.len(), "more", to);
    }
    put!(to, "</section>\n");
}

fn left(said: &Said<'_>, to: &mut String) {
    let survey = said.survey;
    put!(to, "<section id=\"left\"><h2>Live at the end</h2>\n");
    if said.left.is_empty() {
        put!(to, "<p>Everything was freed.</p></section>\n");
        return;
    }
    let all = said.left.iter().fold(0u64, |sum, held| sum.saturating_add(held.bytes));
    let row = |held: &Held| {
        vec![
            bytes(held.size),
            number(held.blocks),
            bytes(held.bytes),
            share(held.bytes, all),
            span(survey.axis, Some(held.oldest)),
            some(&survey.streams, &held.streams, true),
            some(&survey.threads, &held.threads, false),
        ]
    };
    by_site(survey, &survey.left, all, to);
    let columns = ["size", "blocks", "bytes", "share", "oldest from", "streams", "threads"];
    Table { name: "By size", columns: &columns }.write(said.left.iter().take(ROWS).map(row), to);
    more(said.left.len(), "sizes", to);
    put!(
        to,
        "<p class=\"note\">What a program keeps, such as weights, is here too; what grows is said \
         above.</p>\n"
    );
    put!(to, "</section>\n");
}

fn faults(said: &Said<'_>, to: &mut String) {
    let faults = &said.survey.faults;
    if faults.total == 0 {
        return;
    }
    put!(
        to,
        "<section id=\"faults\"><h2>Rows that make no sense</h2>\n<p>{} in all; nothing else here \
         counts them.</p><ul>",
        Grouped(faults.total)
    );
    for fault in faults.first.iter().take(10) {
        put!(to, "<li>line {}: {}</li>\n", Grouped(fault.line), Escaped(&fault.message));
    }
    put!(to, "</ul></section>\n");
}

fn notes(said: &Said<'_>, to: &mut String) {
    put!(
        to,
        "<section id=\"notes\"><h2>Words</h2>\n<dl class=\"words\">\
         <dt>live</dt><dd>bytes requested by blocks that are not freed yet</dd>\
         <dt>allocated</dt><dd>bytes of those blocks when rounded {}</dd>\
         <dt>on pages</dt><dd>bytes of the pages of 2 MiB that hold a live block, at the recorded \
         addresses: less cannot be mapped for them there</dd>\
         <dt>turned over</dt><dd>bytes of all allocations, by the most of them that lived at a \
         time</dd>\
         <dt>call sites</dt><dd>{}</dd></dl></section>\n",
        chart::rounding_name(said.survey),
        match said.survey.has_sites() {
            true =>
                "where the program asked, as the trace tells: the innermost first, and behind \
                     each &lt; who called it",
            false => "this trace has none: it names size, stream and thread",
        }
    );
}
