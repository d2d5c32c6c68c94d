# Makes countries.mmdb, which tests look up addresses in. All addresses are of ranges that are kept for documentation.
#
#     pip install mmdb-writer && python countries.py
from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Tidemark-Test-Country", description="made up for tests")
# As GeoLite2-Country has it, as files of other makers have it, and one without a country.
writer.insert_network(IPSet(["203.0.113.0/24"]), {"country": {"iso_code": "DE"}})
writer.insert_network(IPSet(["2001:db8:1::/48"]), {"country": {"iso_code": "FR"}})
writer.insert_network(IPSet(["198.51.100.0/25"]), {"country_code": "JP"})
writer.insert_network(IPSet(["198.51.100.128/25"]), {"country": "BR"})
writer.insert_network(IPSet(["192.0.2.0/24"]), {"continent": {"code": "EU"}})
# For tests in one machine.
writer.insert_network(IPSet(["127.0.0.0/8"]), {"country": {"iso_code": "SE"}})
writer.to_db_file(str(Path(__file__).with_name("countries.mmdb")))
