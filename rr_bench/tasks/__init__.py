"""HELMET's tasks, and ``recall_prefill``: rows, prompts and scores; no torch here.

``helmet_table`` holds the facts, ``datasets`` a module for each dataset or family; ``sources`` finds a
task's module and says what identifies its rows; ``task`` is lm-eval's side.

Prompts and scores are HELMET's (commit 4526dfb), checked against its code, but for what follows:

* generation ends at a newline for RAG, ICL and re-ranking (``newline_stop=auto``), as HELMET's configs
  ask and the RRAttention authors ran it; HELMET's code misreads its config's key and never stops;
* NarrativeQA's and Multi-LexSum's demonstrations are drawn by the run's seed, HELMET's without one;
* fewer samples than all are a fair subset: RAG and re-ranking then take one variant of each question;
* an answer given as one string is one answer; HELMET takes it letter by letter for RULER;
* base models are told from instruct models by their end token (``data.chat=auto``), HELMET's users say;
* a row that cannot be used is an error that names its file, where HELMET fails or scores nonsense.
"""
