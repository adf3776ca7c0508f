/* What every public header starts from. */
#ifndef ZEROHOP_API_H
#define ZEROHOP_API_H

/* The library is built with hidden visibility; what is marked ZH_API is its interface. */
#define ZH_API __attribute__((visibility("default")))

/* The version of the library, as "major.minor.patch". */
ZH_API const char *zh_version(void);

#endif
