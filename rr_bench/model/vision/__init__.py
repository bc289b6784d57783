"""Videos as a vision-language model reads them: pixels to patches, prompt to tokens, tokens to positions."""
