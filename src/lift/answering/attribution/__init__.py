"""Attribution: does a sentence of the document answer this question with this answer? English rules, no model."""
