"""What people look at: progress while it runs, tables, JSON lines and one HTML page.

Read `views` first: what there is to show. `findings` says it in words, `summary` in tables of text, and `tables` (the
terminal), `jsonl` and `page` (with `plots`) write it down. Nothing here measures.
"""
