"""Runs the SQL on standard input in DuckDB and prints what its SELECTs give: a JSON array of rows for each."""

import json
import sys

import duckdb

connection = duckdb.connect()
# Nothing but what was installed: no download in the middle of a test.
connection.execute("SET autoinstall_known_extensions = false")
# It would go to standard output, among the results.
connection.execute("SET enable_progress_bar = false")
results = []
for statement in connection.extract_statements(sys.stdin.read()):
    if statement.type == duckdb.StatementType.SELECT:
        # A comment after the semicolon belongs to the statement, too.
        lines = [line for line in statement.query.splitlines() if not line.lstrip().startswith("--")]
        select = "\n".join(lines).strip().rstrip(";")
        # DuckDB spells times and large integers itself.
        rows = connection.execute(f"SELECT to_json(answer)::VARCHAR FROM ({select}) AS answer").fetchall()
        results.append([json.loads(row) for (row,) in rows])
    else:
        connection.execute(statement)
json.dump(results, sys.stdout)
