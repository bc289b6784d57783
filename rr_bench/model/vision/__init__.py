"""Videos as a vision-language model reads them: patches of pixels, tokens and their positions."""
