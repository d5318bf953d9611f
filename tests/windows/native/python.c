/* python.exe: hands the command line to the official interpreter DLL beside it, as CPython's own python.exe does
 * (PC/python.c). PYTHON_DLL is its file name, given by the recipe. */
#include <stdio.h>
#include <windows.h>

int wmain(int argc, wchar_t **argv)
{
    HMODULE dll = LoadLibraryW(PYTHON_DLL);
    int (*main_)(int, wchar_t **) = dll ? (void *)GetProcAddress(dll, "Py_Main") : NULL;

    if (main_ == NULL) {
        fprintf(stderr, "python.exe: no Py_Main in %ls (error %lu)\n", PYTHON_DLL, GetLastError());
        return 127;
    }
    return main_(argc, argv);
}
