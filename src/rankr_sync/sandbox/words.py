"""Word lists the generator draws from: invented people, and addresses and numbers reserved for fiction. No logic."""

from __future__ import annotations

# (as written, as spelt in an e-mail address)
FIRST_NAMES: tuple[tuple[str, str], ...] = (
    ("Ada", "ada"), ("Zoë", "zoe"), ("Renée", "renee"), ("José", "jose"), ("Łukasz", "lukasz"), ("Søren", "soren"),
    ("Núria", "nuria"), ("Siobhán", "siobhan"), ("D'Artagnan", "dartagnan"), ("Mary Jo", "maryjo"),
    ("Anne-Sophie", "anne-sophie"), ("Jürgen", "juergen"), ("Ömer", "oemer"), ("İpek", "ipek"), ("Nguyễn", "nguyen"),
    ("小明", "xiaoming"), ("さくら", "sakura"), ("민준", "minjun"), ("美玲", "meiling"), ("محمد", "mohammed"),
    ("ليلى", "layla"), ("אבי", "avi"), ("Иван", "ivan"), ("Ольга", "olga"), ("Γιώργος", "giorgos"), ("प्रिया", "priya"),
    ("สมชาย", "somchai"), ("Kai 🌊", "kai"), ("Robin ✨", "robin"), ("Taylor", "taylor"), ("Jordan", "jordan"),
    ("Casey", "casey"), ("Riley", "riley"), ("Morgan", "morgan"), ("Sam", "sam"), ("Alex", "alex"), ("Grace", "grace"),
    ("Alan", "alan"), ("Edsger", "edsger"), ("Barbara", "barbara"), ("Ken", "ken"), ("Margaret", "margaret"),
)  # fmt: skip
LAST_NAMES: tuple[tuple[str, str], ...] = (
    ("O'Brien", "obrien"), ("D’Angelo", "dangelo"), ("Müller", "mueller"), ("García Márquez", "garcia"),
    ("Ñáñez", "nanez"),
    ("van der Berg", "vanderberg"), ("McDonald", "mcdonald"), ("Åström", "astrom"), ("Dvořák", "dvorak"),
    ("Smith-Jones", "smith-jones"), ("Þórsdóttir", "thorsdottir"), ("Kowalczyk", "kowalczyk"), ("王", "wang"),
    ("田中", "tanaka"), ("김", "kim"), ("السيد", "elsayed"), ("כהן", "cohen"), ("Петров", "petrov"),
    ("Παπαδόπουλος", "papadopoulos"), ("शर्मा", "sharma"), ("Lovelace", "lovelace"), ("Hopper", "hopper"),
    ("Turing", "turing"),
    ("Okafor", "okafor"), ("N'Diaye", "ndiaye"), ("St. John", "stjohn"), ("Lee", "lee"), ("Brown", "brown"),
    ("Wilson", "wilson"), ("Patel", "patel"), ("Ivanova", "ivanova"), ("Rossi", "rossi"), ("Silva", "silva"),
    ("Nowak", "nowak"),
)  # fmt: skip
MAIL_DOMAINS = ("example.com", "example.org", "example.net", "mail.example.com", "office.example.org")

# 555-0100 to 555-0199 of every area code is reserved for fiction (NANPA).
AREA_CODES = (
    "202", "205", "206", "208", "209", "210", "212", "213", "214", "215", "216", "217", "218", "219", "224", "225",
    "228", "229", "231", "234", "239", "240", "248", "251", "252", "253", "254", "256", "260", "262", "267", "269",
    "270", "276", "281", "301", "302", "303", "304", "305", "307", "308", "309", "310", "312", "313", "314", "315",
    "316", "317", "318", "319", "320", "321", "323", "330", "334", "336", "337", "339", "347", "351", "352", "360",
)  # fmt: skip
# Ranges that Ofcom and Arcep keep for drama: (prefix, digits that follow).
DRAMA_RANGES = (("+442079460", 3), ("+3319900", 4), ("+3326191", 4), ("+3335301", 4), ("+3346571", 4), ("+3353649", 4))

CITIES = (
    ("New York", "NY", "10001", "US"), ("Austin", "TX", "73301", "US"), ("San José", "CA", "95112", "US"),
    ("Zürich", "ZH", "8001", "CH"), ("Łódź", "LD", "90-001", "PL"), ("東京", "13", "100-0001", "JP"),
    ("København", "84", "1050", "DK"), ("Montréal", "QC", "H2X 1Y4", "CA"), ("São Paulo", "SP", "01000-000", "BR"),
)  # fmt: skip
STREETS = ("1st St N", "Rue de l'Église", "Hauptstraße", "中山路", "Av. Paulista", "Elm Street", "Ulica Świętojańska")
TIME_ZONES = ("America/New_York", "America/Chicago", "America/Los_Angeles", "Europe/Zurich", "Asia/Tokyo", "US/Central")
SOURCES = ("public api", "website form", "Facebook ads", "csv upload", "referral", "Messe Köln", "chat widget")
TAGS = (
    "follow-up", "warm lead", "high priority", "vip", "newsletter", "no-show", "éxito", "リピーター", "trial ended",
    "web 2025", "o'clock club", "🔥 hot", "imported", "do not call", "renewal", "partner",
)  # fmt: skip
COMPANIES = (
    "Acme & Sons", "Café Zoë", "MacLaren's Pub", "Initech", "Bäckerei Müller", "東京商事", "Globex", "Hooli",
    "Dunder Mifflin", "O'Reilly Plumbing", "Stark Solar", "Vandelay Imports", "Łódź Print", "Nakatomi Trading",
)  # fmt: skip
BUSINESS_ENDINGS = ("", " LLC", " GmbH", " Ltd", " S.A.", " 株式会社", " Inc.")
TASK_TITLES = (
    "Call back", "Send the offer", "Prepare contract", "Ask for referral", "Check invoice #42", "Rückruf vereinbaren",
    "见面准备", "Follow up on quote", "Birthday card 🎂", "Review O'Brien's file", "Update address",
    "Renew subscription",
)  # fmt: skip
TASK_BODIES = (
    "Promised an answer by Friday.", "Second attempt.\nLeave a voicemail if nobody answers.", "Siehe letzte Notiz.",
    "<p>Use the <b>new</b> price list</p>", "担当者に確認すること", "Ask about the budget & the deadline",
)  # fmt: skip
# (body as HTML or text, the same as plain text)
NOTE_BODIES: tuple[tuple[str, str], ...] = (
    ("<p>Spoke on the phone, wants a <strong>quote</strong>.</p>", "Spoke on the phone, wants a quote."),
    ("<p>Prefers e-mail.</p><p>No calls before 10&nbsp;am.</p>", "Prefers e-mail.\nNo calls before 10 am."),
    ("Left a voicemail", "Left a voicemail"),
    ("<ul><li>roof</li><li>garage</li></ul>", "roof\ngarage"),
    ("<p>Budget: &lt; 5&#8239;000 &amp; flexible</p>", "Budget: < 5\u202f000 & flexible"),
    ("<p>Très intéressée, rappeler en mai</p>", "Très intéressée, rappeler en mai"),
    ("<p>見積もりを送った 📄</p>", "見積もりを送った 📄"),
    ("<p>تم الاتفاق على الموعد</p>", "تم الاتفاق على الموعد"),
    ("Mother-in-law's house; gate code is 'left of door'", "Mother-in-law's house; gate code is 'left of door'"),
    ('<p>See <a href="https://example.com/doc?id=1&amp;v=2">document</a></p>', "See document"),
)
NOTE_TITLES = ("Call", "Visit", "Follow-up summary", "Angebot", "議事録")
APPOINTMENT_TITLES = (
    "Discovery call",
    "Site visit",
    "Demo",
    "Erstgespräch",
    "Onboarding",
    "商談",
    "Check-in with {name}",
)
APPOINTMENT_ADDRESSES = (
    "",
    "",
    "https://meet.example.com/abc-defg-hij",
    "12 Elm Street, Austin",
    "Hauptstraße 5, Zürich",
)
USERS = (
    ("Ana", "Müller"),
    ("Bob", "O'Neil"),
    ("陈", "伟"),
    ("Chioma", "Okafor"),
    ("Dmitri", "Петров"),
    ("Eve", "Stone"),
)
CALENDARS = ("Sales calls", "Site visits", "Büro Zürich", "Support")
USER_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
)
